"""Adding a local function to an image window by window, so that what it makes stays in the cache.

A feed-forward widens C channels to 5 C and writes them out several times; on a CPU the memory is
then the limit, not the arithmetic. Every output pixel depends only on inputs within a radius, so
windows of the image, each with a margin of that radius, give the same result up to rounding, and
their intermediates are small enough for the cache. Training recomputes a window in its backward
pass instead of keeping the intermediates, which takes less time on the CPU.

On other devices, and for what fits into one window, the function is simply called. Where channels
are many a window is mostly margin, and gains nothing (PERFORMANCE.md).

Shapes: B batch, C channels, H x W pixels. Deviations: none, results are equal up to rounding.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils._triton import has_triton

WINDOW_BYTES = 9 * 2**20  # of the widest intermediate in float32 (PERFORMANCE.md has others)
LARGE_BYTES = 4 * WINDOW_BYTES  # smaller images are as fast or faster with a second one beside them


class Span(NamedTuple):
    """A part of a side: what to read, what to write, and where the latter lies in the former."""

    read: slice
    write: slice
    inner: slice


class Window(NamedTuple):
    """Samples, rows and columns to read and to write, and where the latter lie in the former."""

    read: tuple[slice, ...]
    write: tuple[slice, ...]
    inner: tuple[slice, ...]


def add_in_windows(
    x: Tensor,
    function: Callable[..., Tensor],
    images: Sequence[Tensor],
    weights: Sequence[Tensor],
    *,
    radius: int,
    channels: int,
) -> Tensor:
    """`x + function(*images, *weights)`, on the CPU in windows.

    Args:
        x: (B, C, H, W).
        function: its result is as large as x; an output pixel depends on pixels of the images
            within `radius`, and on nothing beyond their borders (convolutions pad with zeros).
        images: (B, *, H or 1, W or 1); x may be the first of them. Without gradients x may hold
            the result afterwards.
        weights: all else that gradients go to.
        channels: of the function's widest intermediate.
    """
    windows = list(_windows(x.shape, radius, channels)) if is_eager_cpu(x) else []
    if len(windows) < 2:
        return x + function(*images, *weights)
    if not torch.is_grad_enabled() and x.is_contiguous(memory_format=torch.channels_last):
        if images[0] is not x:
            return _add(x, x, function, windows, images, weights)
        if is_large(x):
            return _add_in_place(x, function, windows, images[1:], weights)
    return _AddInWindows.apply(function, windows, len(images), x, *images, *weights)


def is_large(x: Tensor) -> bool:
    """Whether memory for another image as large is better spared: on the CPU, without gradients."""
    return is_eager_cpu(x) and not torch.is_grad_enabled() and x.nbytes > LARGE_BYTES


def bands(x: Tensor, channels: int, radius: int = 0) -> list[Span]:
    """Bands of whole rows of (B, C, H, W), small enough for the cache with that many channels."""
    rows = WINDOW_BYTES // (4 * channels * len(x) * x.shape[3])
    return spans(x.shape[2], max(1, rows), radius)


def spans(length: int, side: int, radius: int = 0) -> list[Span]:
    """As few equal parts of a side as are at most `side` long."""
    count = math.ceil(length / side)
    parts = (
        slice(index * length // count, (index + 1) * length // count) for index in range(count)
    )
    return [with_margin(part, radius, length) for part in parts]


def with_margin(part: slice, radius: int, length: int) -> Span:
    """A part of a side, to be written, and what is around it to be read."""
    low, high = max(0, part.start - radius), min(length, part.stop + radius)
    return Span(slice(low, high), part, slice(part.start - low, part.stop - low))


def is_eager_cpu(x: Tensor) -> bool:
    """Whether what is written for the CPU's caches and kernels applies: no autocast, no export."""
    return (
        x.device.type == "cpu"
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
    )


def is_eager_gpu(x: Tensor) -> bool:
    """Whether kernels written for the GPU apply: Triton is there, no compilation, no export."""
    return (
        x.device.type == "cuda"
        and has_triton()
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
    )


class _AddInWindows(torch.autograd.Function):
    @staticmethod
    def forward(
        context: Any,
        function: Callable[..., Tensor],
        windows: Sequence[Window],
        num_images: int,
        x: Tensor,
        *tensors: Tensor,
    ) -> Tensor:
        context.save_for_backward(*tensors)
        context.function, context.windows, context.num_images = function, windows, num_images
        images, weights = tensors[:num_images], tensors[num_images:]
        result = torch.empty_like(x, memory_format=torch.channels_last)
        return _add(result, x, function, windows, images, weights)

    @staticmethod
    @once_differentiable
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        tensors = context.saved_tensors
        images, weights = tensors[: context.num_images], tensors[context.num_images :]
        totals = [torch.zeros_like(tensor) for tensor in tensors]
        weights = [weight.detach().requires_grad_() for weight in weights]
        for window in context.windows:
            cuts = [_cut(image, window.read).detach().requires_grad_() for image in images]
            with torch.enable_grad():
                part = context.function(*cuts, *weights)[window.inner]
            found = torch.autograd.grad(part, [*cuts, *weights], gradient[window.write])
            for index, (total, value) in enumerate(zip(totals, found, strict=True)):
                (_cut(total, window.read) if index < len(images) else total).add_(value)
        return None, None, None, gradient, *totals


def _add(
    result: Tensor,
    x: Tensor,
    function: Callable[..., Tensor],
    windows: Sequence[Window],
    images: Sequence[Tensor],
    weights: Sequence[Tensor],
) -> Tensor:
    for window in windows:
        part = function(*(_cut(image, window.read) for image in images), *weights)
        torch.add(x[window.write], part[window.inner], out=result[window.write])
    return result


def _add_in_place(
    x: Tensor,
    function: Callable[..., Tensor],
    windows: Sequence[Window],
    others: Sequence[Tensor],
    weights: Sequence[Tensor],
) -> Tensor:
    """x += function(x, *others, *weights).

    Each row of windows reads from a copy, since its margin above has been written to already: those
    pixels are taken from the copy before.
    """
    copied, first = x, 0  # what was copied last, and its first row
    for (samples, _, rows), row in itertools.groupby(windows, lambda window: window.read[:3]):
        row = list(row)
        start = row[0].write[2].start
        before = x[samples, :, start : rows.stop]
        if rows.start < start:
            above = copied[:, :, rows.start - first : start - first]
            copied = torch.cat([above, before], dim=2)
        else:
            copied = before.clone()
        first = rows.start
        for window in row:
            cuts = (_cut(image, window.read) for image in others)
            part = function(copied[..., window.read[3]], *cuts, *weights)
            x[window.write].add_(part[window.inner])
    return x


def _windows(shape: tuple[int, ...], radius: int, channels: int) -> Iterator[Window]:
    batch, _, height, width = shape
    pixels = WINDOW_BYTES // (4 * channels)
    samples = max(1, pixels // (height * width))
    side = max(4 * radius, math.isqrt(pixels) - 2 * radius)
    if height * width <= pixels:
        side = max(height, width)
    for first, rows, columns in itertools.product(
        range(0, batch, samples), spans(height, side, radius), spans(width, side, radius)
    ):
        which = slice(first, min(batch, first + samples))
        every = slice(None)
        yield Window(
            (which, every, rows.read, columns.read),
            (which, every, rows.write, columns.write),
            (every, every, rows.inner, columns.inner),
        )


def _cut(tensor: Tensor, window: tuple[slice, ...]) -> Tensor:
    """The window of (B, C, H, W); a side of one pixel is kept."""
    rows, columns = (
        slice(None) if size == 1 else part
        for size, part in zip(tensor.shape[2:], window[2:], strict=True)
    )
    return tensor[window[0], :, rows, columns]
