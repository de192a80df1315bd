"""Restoring pictures from Python; demo.py and app.py are made of this.

from am_promptir import restore

result = restore("photo.jpg")                # blind, with the default checkpoint
result.save("restored/photo.jpg")            # as deep, grey or transparent as it was
print(result.weights)                        # what the network took to be wrong
restore("rainy.png", "ckpt/best.ckpt", task="derain", strength=0.7)
"""

import numbers
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from net.checkpoint import Trained, default_checkpoint, load_network
from net.text import CLIP_PRETRAINED, embed, weigh_by_similarity
from utils import inference
from utils.comparison import write_comparison
from utils.devices import choose_device
from utils.errors import UserError, is_for_want_of_memory
from utils.image_io import EXTENSIONS
from utils.inference import SMALLEST_TILE, Part
from utils.pictures import Picture, read_picture, take_picture, write_picture


class Restored(NamedTuple):
    """A picture before and after.

    weights: of each degradation, as the network saw them in the picture, summing to 1; None if it
    was told what is wrong, or cannot say.
    tiles: that it was restored in; 1 is the whole picture.
    """

    before: Picture
    after: Picture
    weights: dict[str, float] | None
    tiles: int = 1

    def __repr__(self) -> str:
        width, height = self.before.size
        decibels = self.change_db
        change = "unchanged" if decibels is None else f"{decibels:.2f} dB to the input"
        seen = f", seen as {describe_weights(self.weights)}" if self.weights else ""
        tiles = f", in {self.tiles} tiles" if self.tiles > 1 else ""
        return f"Restored({width} x {height} pixels, {change}{seen}{tiles})"

    @property
    def change_db(self) -> float | None:
        """PSNR of the result against the picture in dB; None if they are the same."""
        before, after = self.before.pixels, self.after.pixels
        if np.array_equal(before, after):
            return None
        return cv2.PSNR(before, after, float(np.iinfo(before.dtype).max))

    def save(self, path: str | Path) -> None:
        """Write the result in the format of the path's ending. Raises `UserError`."""
        write_picture(_with_known_ending(Path(path)), self.after)

    def save_comparison(self, path: str | Path) -> None:
        """Write both side by side as 8-bit RGB, with the weights as bars. Raises `UserError`."""
        images = [self.before.preview(), self.after.preview()]
        path = _with_known_ending(Path(path))
        write_comparison(path, images, ("input", "restored"), self.weights or {})


def restore(
    source: str | Path | np.ndarray | Image.Image | Picture,
    checkpoint: str | Path | Trained | None = None,
    *,
    task: str | None = None,
    text: str | None = None,
    strength: float = 1.0,
    tile: int | None = None,
    cuda: int | None = None,
    on_part: Callable[[Part], None] | None = None,
    self_ensemble: bool = False,
) -> Restored:
    """Restore one picture.

    Args:
        source: a file; or pixels, uint8 or uint16, (H, W) or (H, W, C) with C 1 to 4 (grey, grey
            and alpha, RGB, RGB and alpha); or an image of Pillow's.
        checkpoint: what `load` gave, or a path, which is loaded anew each time; by default the
            first there of `net.checkpoint.DEFAULTS`.
        task: the degradation, if you know it; by default the network decides (blind).
        text: the same in your own words; needs CLIP.
        strength: from 0, the picture as it was, to 1.
        tile: side of the tiles in pixels, from 64; 0 for the whole picture at once, None to choose.
        cuda: index of the GPU, -1 for the CPU, None to choose; not with what `load` gave, which is
            on a device already.
        on_part: called after each tile, or region of a picture that is streamed.
        self_ensemble: the mean of four restorations, of the picture mirrored both ways.

    Raises:
        UserError: whatever is wrong with these.
    """
    loaded = isinstance(checkpoint, Trained)
    if loaded and cuda is not None:
        raise UserError(f"cuda {cuda}: the network is on a device already; give cuda to load()")
    trained = checkpoint if loaded else load(checkpoint, cuda)
    named = name_degradation(trained, task, text)
    picture = as_picture(source)
    return restore_picture(picture, trained, named, strength, tile, on_part, self_ensemble)


def load(checkpoint: str | Path | None = None, cuda: int | None = None) -> Trained:
    """A trained network on a device; arguments as those of `restore`. Raises `UserError`."""
    device = choose_device(cuda)
    trained = load_network(Path(checkpoint) if checkpoint else default_checkpoint())
    trained.net.to(device)
    return trained


def as_picture(source: str | Path | np.ndarray | Image.Image | Picture) -> Picture:
    """What `restore` takes, as a picture. Raises `UserError`."""
    if isinstance(source, Picture):
        return source
    if isinstance(source, str | Path):
        return read_picture(Path(source))
    if isinstance(source, Image.Image):
        return take_picture(source)
    try:
        pixels = np.asarray(source)
    except (RuntimeError, TypeError, ValueError) as error:  # a tensor with a gradient, a list
        raise UserError(
            f"{type(source).__name__}: no array ({error}); give a path, uint8 or uint16 pixels, or "
            "an image of Pillow's"
        ) from error
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    kinds = (np.uint8, np.uint16)
    fits = pixels.ndim == 3 and 1 <= pixels.shape[2] <= 4 and pixels.size > 0
    if not fits or pixels.dtype not in kinds:
        raise UserError(
            f"pixels {pixels.dtype} {pixels.shape}: expected uint8 or uint16, (H, W) or (H, W, C) "
            "with C 1 to 4; or give a path or an image of Pillow's"
        )
    has_alpha = pixels.shape[2] in (2, 4)
    colours = pixels[..., :-1] if has_alpha else pixels
    return Picture(colours, pixels[..., -1] if has_alpha else None)


def restore_picture(
    picture: Picture,
    trained: Trained,
    named: Tensor | None = None,
    strength: float = 1.0,
    tile: int | None = None,
    on_part: Callable[[Part], None] | None = None,
    self_ensemble: bool = False,
) -> Restored:
    """`restore`, with a network in hand and `named` as `name_degradation` gives it."""
    if not isinstance(strength, numbers.Real) or not 0 <= strength <= 1:
        raise UserError(f"strength {strength!r}: expected a number from 0 to 1")
    if tile is not None and (not isinstance(tile, numbers.Integral) or 0 != tile < SMALLEST_TILE):
        raise UserError(
            f"tile {tile!r}: expected a whole number of pixels from {SMALLEST_TILE}, 0 or None"
        )
    seen = torch.zeros(len(trained.degradations))
    pixels, tiles = 0, 1

    def observe(part: Part) -> None:
        nonlocal pixels, tiles
        tiles = part.tiles
        if part.scores is not None and len(seen):
            seen.add_(part.scores.softmax(dim=1).mean(dim=0).cpu(), alpha=part.pixels)
            pixels += part.pixels
        if on_part:
            on_part(part)

    try:
        image = picture.to_tensor()
        restored = inference.restore(trained.net, image, named, tile, observe, self_ensemble)
        restored = restored.cpu()
        if not restored.isfinite().all():
            raise UserError("the network's result is not finite; use another checkpoint")
        after = picture.with_colours(torch.lerp(image, restored, strength))
    except (MemoryError, RuntimeError) as error:
        size = f"{picture.size[0]} x {picture.size[1]} pixels"
        if is_for_want_of_memory(error):
            raise UserError(
                f"{size}: out of memory; give a smaller tile, such as --tile 256"
            ) from error
        raise UserError(
            f"{size}: cannot be restored ({error}); try a tile, such as --tile 256, or the CPU "
            "with --cuda -1"
        ) from error
    weights = None
    if named is None and pixels:
        weights = dict(zip(trained.degradations, (seen / pixels).tolist(), strict=True))
    return Restored(picture, after, weights, tiles)


def name_degradation(
    trained: Trained,
    task: str | None = None,
    text: str | None = None,
    clip_pretrained: str = CLIP_PRETRAINED,
    clip_quick_gelu: bool | None = None,
) -> Tensor | None:
    """What is said to be wrong, as the network takes it, (1, K); None for blind.

    Raises:
        UserError: the network knows no such task, or no words.
    """
    if task is None and text is None:
        return None
    if task is not None and text is not None:
        raise UserError("--task and --text: give one of them")
    if not trained.net.can_be_named:
        flag = "--text" if task is None else "--task"
        raise UserError(f"{flag}: {trained.title} cannot be told what is wrong; leave the flag out")
    if task is not None:
        if task not in trained.degradations:
            expected = ", ".join(trained.degradations)
            raise UserError(f"--task {task}: this network knows only {expected}")
        if task not in trained.description["trained"]:
            warnings.warn(f"--task {task}: not among what was trained", stacklevel=2)
        return trained.net.name_degradation(trained.degradations.index(task), 1)

    encoder = trained.description["text_encoder"]
    if not trained.net.text.from_clip:
        raise UserError(
            f"--text: this checkpoint's text table is {encoder}, which knows no words; leave "
            "--text out, or name the degradation by --task"
        )
    embedding, used = embed([text], clip_pretrained, clip_quick_gelu)
    if used != encoder:
        raise UserError(
            f"--text: the checkpoint's texts were embedded by {encoder}, not {used}; give its "
            "weights with --clip_pretrained, or name the degradation by --task"
        )
    table = trained.net.text()
    return weigh_by_similarity(embedding[0].to(table.device), table)[None]


def describe_weights(weights: dict[str, float]) -> str:
    """Weights in one line, the largest first."""
    ranked = sorted(weights.items(), key=lambda item: -item[1])
    return ", ".join(f"{name} {weight:.0%}" for name, weight in ranked)


def _with_known_ending(path: Path) -> Path:
    """The path; raises `UserError` if its ending is not of a picture."""
    if path.suffix.lower() not in EXTENSIONS:
        raise UserError(f"{path}: expected a name ending in {' '.join(sorted(EXTENSIONS))}")
    return path
