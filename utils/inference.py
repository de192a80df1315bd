"""Restoring images of any size: padding outside the network, tiles where memory is short.

Before tiles comes, on the CPU, a way that restores the whole image in less memory and more time
(net/streaming.py), so that it comes out as it would with more memory.
"""

import itertools
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from utils.allocator import give_back_memory
from utils.memory import available_memory

TILE_OVERLAP = 64  # pixels; the seams of a tiled restoration fade over it
SMALLEST_TILE = 64  # pixels; smaller ones would be all overlap
MIRRORINGS = ([], [1], [2], [1, 2])  # axes of (3, H, W)
MEMORY_SHARE = 0.5  # of the free memory that one forward pass may take


class Part(NamedTuple):
    """A tile that has been restored, or the whole image, or a region of it that has been read.

    done, total: calls so far and in all; pixels: restored with this one, 0 of a region; scores: (3,
    K) as the network's forward gives them, or None, of a region or if it gives none; tiles: that
    the image was cut into.
    """

    done: int
    total: int
    pixels: int
    scores: Tensor | None
    tiles: int = 1


@torch.inference_mode()
def restore(
    net: nn.Module,
    image: Tensor,
    named: Tensor | None = None,
    tile: int | None = 0,
    on_part: Callable[[Part], None] | None = None,
    self_ensemble: bool = False,
    free: int | None = None,
) -> Tensor:
    """Restore one image of any size.

    Args:
        net: a `RestorationNetwork`; its mode is kept.
        image: (3, H, W) in [0, 1], on any device.
        named: (1, K) as in the network's forward, or None for blind.
        tile: side of the tiles in pixels, at most (they are made equal); 0 for the whole image at
            once; None for the whole image, or else the largest tiles that fit into the free memory.
        on_part: called after each tile, and while a whole image is streamed after each region read.
        self_ensemble: the mean of four restorations, of the image mirrored both ways.
        free: bytes of memory to go by; None for what is free now.

    Returns:
        (3, H, W) in [0, 1], clipped, on the network's device; where the network gives infinite
        values, NaN.
    """
    device = _device(net)
    height, width = image.shape[1:]
    if free is None and (tile is None or net.streamed_bytes_per_pixel):
        free = free_memory(device)
        short = height * width > _pixels_that_fit(net, MEMORY_SHARE * free)
        if short and not tile and device.type == "cpu" and give_back_memory():
            free = free_memory(device)
    if tile is None:
        tile = automatic_tile(net, height, width, free)
    if self_ensemble:
        return _restore_mirrored(net, image, named, tile, on_part, free)
    image = image[None].to(device)
    if not tile or tile >= max(height, width):
        read = 0

        def on_region(done: int, total: int) -> None:
            nonlocal read
            read = done
            on_part(Part(done, total + 1, 0, None))

        told = on_region if on_part else None
        restored, scores = _restore_whole(net, image, named, on_part is not None, free, told)
        if on_part:
            on_part(Part(read + 1, read + 1, height * width, scores))
        return restored[0]

    overlap = min(TILE_OVERLAP, tile // 2)
    total = torch.zeros_like(image)
    weight = torch.zeros_like(image[:, :1])
    rows, columns = (_spans(side, tile, overlap, net.size_multiple) for side in (height, width))
    with net.weights_kept():
        for done, ((top, bottom), (left, right)) in enumerate(itertools.product(rows, columns), 1):
            window = (..., slice(top, bottom), slice(left, right))
            part = image[window]
            down = _ramp(part.shape[2], overlap, top > 0, bottom < height, device)
            across = _ramp(part.shape[3], overlap, left > 0, right < width, device)
            mask = down[:, None] * across
            restored, scores = _restore_whole(net, part, named, on_part is not None, free)
            total[window] += mask * restored
            weight[window] += mask
            if on_part:
                tiles = len(rows) * len(columns)
                on_part(Part(done, tiles, part[0, 0].numel(), scores, tiles))
    return (total / weight)[0]


def automatic_tile(net: nn.Module, height: int, width: int, free: int) -> int:
    """The side of the tiles that fit into `free` bytes of memory; 0 if the whole image does."""
    memory = MEMORY_SHARE * free
    pixels = _pixels_that_fit(net, memory)
    streamed = is_streamed(net, height, width, free)
    if height * width <= pixels or (streamed and _streamed_bytes(net, height * width) <= memory):
        return 0
    # streamed tiles could be larger, but would take longer
    multiple = net.size_multiple
    return max(SMALLEST_TILE, math.isqrt(int(pixels)) // multiple * multiple)


def is_streamed(net: nn.Module, height: int, width: int, free: int | None) -> bool:
    """Whether an image, restored at once, takes the way that needs less memory and more time.

    free: None only if the network has no such way.
    """
    pixels = height * width
    if not net.streamed_bytes_per_pixel or _device(net).type != "cpu":
        return False
    whole = net.windows_bytes + pixels * net.windowed_bytes_per_pixel
    spares = _streamed_bytes(net, pixels) < whole  # not where the image is small
    return spares and pixels > _pixels_that_fit(net, MEMORY_SHARE * free)


def _streamed_bytes(net: nn.Module, pixels: int) -> float:
    return 1.5 * net.windows_bytes + pixels * net.streamed_bytes_per_pixel


def _pixels_that_fit(net: nn.Module, memory: float) -> float:
    """Of images that are restored at once, not streamed."""
    pixels = memory / net.inference_bytes_per_pixel
    if net.windowed_bytes_per_pixel and _device(net).type == "cpu":
        pixels = max(pixels, (memory - net.windows_bytes) / net.windowed_bytes_per_pixel)
    return pixels


def _device(net: nn.Module) -> torch.device:
    return next(net.parameters()).device


def free_memory(device: torch.device) -> int:
    """Bytes that a computation on `device` could still allocate."""
    if device.type == "cuda":
        reserved = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + reserved
    if device.type == "mps":
        return max(0, torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory())
    return available_memory()


def pad_to_multiple(image: Tensor, multiple: int) -> Tensor:
    """Reflect (B, C, H, W) at the bottom and right to multiples; short sides repeat the edge."""
    height, width = image.shape[2:]
    below, beside = -height % multiple, -width % multiple
    mode = "reflect" if below < height and beside < width else "replicate"
    return F.pad(image, (0, beside, 0, below), mode=mode)


def _restore_mirrored(
    net: nn.Module,
    image: Tensor,
    named: Tensor | None,
    tile: int,
    on_part: Callable[[Part], None] | None,
    free: int | None,
) -> Tensor:
    """The mean over the image's mirrorings, without quarter turns: no network saw such rain."""
    total = torch.zeros(())
    times = len(MIRRORINGS)
    with net.weights_kept():
        for number, axes in enumerate(MIRRORINGS):

            def pass_on(part: Part, before: int = number) -> None:
                parts = part.total
                on_part(part._replace(done=before * parts + part.done, total=times * parts))

            pass_on = pass_on if on_part else None
            restored = restore(net, image.flip(axes), named, tile, pass_on, free=free)
            total = total.to(restored.device) + restored.flip(axes) / times
    return total


def _restore_whole(
    net: nn.Module,
    image: Tensor,
    named: Tensor | None,
    wants_scores: bool,
    free: int | None,
    on_region: Callable[[int, int], None] | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Restored (1, 3, H, W), clipped, and scores (3, K) if they are wanted and to be had."""
    height, width = image.shape[2:]
    padded = pad_to_multiple(image, net.size_multiple)
    ways = {}
    if is_streamed(net, *padded.shape[2:], free):
        ways = {"streamed": True, "on_region": on_region}
    scores = None
    if wants_scores and net.gives_scores:
        restored, scores = net(padded, named, with_scores=True, **ways)
        scores = scores[0]
    else:
        restored = net(padded, named, **ways)
    restored = restored[..., :height, :width]
    restored = restored.masked_fill(restored.isinf(), torch.nan)  # clipped, it would look sound
    return restored.clamp(0, 1), scores


def _spans(length: int, tile: int, overlap: int, multiple: int) -> list[tuple[int, int]]:
    """First pixels of the tiles along one side, and those after their last; no more than needed.

    Equal sides, multiples of the network's; the last tile ends with the image.
    """
    count = max(1, math.ceil((length - overlap) / (tile - overlap)))
    side = math.ceil((length + (count - 1) * overlap) / count / multiple) * multiple
    side = min(side, tile, length)
    starts = [min(index * (side - overlap), length - side) for index in range(count)]
    return [(start, start + side) for start in starts]


def _ramp(length: int, overlap: int, fade_in: bool, fade_out: bool, device: torch.device) -> Tensor:
    """Weights (length,) of a tile along one side, rising and falling over the overlap."""
    slope = torch.arange(1, length + 1, device=device) / (overlap + 1)
    weights = torch.ones(length, device=device)
    if fade_in:
        weights = torch.minimum(weights, slope)
    if fade_out:
        weights = torch.minimum(weights, slope.flip(0))
    return weights
