"""What SMAM and FFN do between their convolutions, as one GPU kernel each and one for gradients.

Written one operation after another these parts copy, add and compare the maps of a block many times
over; a training step without that, and with the padded channels of `net.attention`, took a quarter
less time (PERFORMANCE.md). Here each part reads its inputs once and writes its outputs once; what a
program summed up for itself, PyTorch adds up after that.

Shapes: B batch, C channels, H x W pixels, h hidden channels; channels last in memory.

Deviations: none, results are equal up to rounding to float32 or the inputs' type, whichever is
coarser. No atomic additions, so that a repeated run gives the same gradients.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from net.launch import launch

BLOCK = 1024  # values of a program
TILE = 4096  # the same where a program adds up gradients
BAND = 32  # rows of an image whose gradients a program adds up


class SpreadStrips(torch.autograd.Function):
    """relu(rows + columns): (B, C, H, 1) and (B, C, 1, W) to (B, C, H, W)."""

    @staticmethod
    def forward(context, rows: Tensor, columns: Tensor) -> Tensor:
        rows = rows.permute(0, 2, 3, 1).contiguous()  # (B, H, 1, C)
        columns = columns.permute(0, 2, 3, 1).contiguous()  # (B, 1, W, C)
        batch, height, _, channels = rows.shape
        width = columns.shape[2]
        result = rows.new_empty(batch, height, width, channels)
        blocks = triton.cdiv(width * channels, BLOCK)
        grid = batch * height, blocks
        launch(_spread, grid, rows, columns, result, height, width, channels, BLOCK)
        context.save_for_backward(rows, columns)
        return result.permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable
    def backward(context, gradient: Tensor) -> tuple[Tensor, Tensor]:
        rows, columns = context.saved_tensors
        gradient = _channels_last(gradient)
        batch, channels, height, width = gradient.shape
        bands = triton.cdiv(height, BAND)
        padded = triton.next_power_of_2(channels)
        side = max(1, min(triton.next_power_of_2(width), TILE // padded))
        tiles = triton.cdiv(width, side)
        of_rows = rows.new_empty((tiles, *rows.shape), dtype=torch.float32)
        of_columns = rows.new_empty((bands, *columns.shape), dtype=torch.float32)
        launch(
            *(_gather, (tiles, bands, batch), gradient, rows, columns, of_rows, of_columns),
            *(batch, height, width, channels, side, padded, BAND),
        )
        return (
            of_rows.sum(dim=0).to(rows.dtype).permute(0, 3, 1, 2),
            of_columns.sum(dim=0).to(rows.dtype).permute(0, 3, 1, 2),
        )


class Gate(torch.autograd.Function):
    """sigmoid(scores) * x, all (B, C, H, W)."""

    @staticmethod
    def forward(context, scores: Tensor, x: Tensor) -> Tensor:
        scores, x = _channels_last(scores), _channels_last(x)
        result = torch.empty_like(x)
        launch(_gate, _blocks(x), scores, x, result, x.numel(), BLOCK)
        context.save_for_backward(scores, x)
        return result

    @staticmethod
    @once_differentiable
    def backward(context, gradient: Tensor) -> tuple[Tensor, Tensor]:
        scores, x = context.saved_tensors
        gradient = _channels_last(gradient)
        of_scores, of_x = torch.empty_like(scores), torch.empty_like(x)
        launch(_gate_back, _blocks(x), gradient, scores, x, of_scores, of_x, x.numel(), BLOCK)
        return of_scores, of_x


class AddFirst(torch.autograd.Function):
    """The first channels of a wider map added: (B, C or more, H, W) and (B, C, H, W), as these."""

    @staticmethod
    def forward(context, wide: Tensor, x: Tensor) -> Tensor:
        wide, x = _channels_last(wide), _channels_last(x)
        result = torch.empty_like(x)
        channels = (wide.shape[1], x.shape[1])
        launch(_add_first, _blocks(x), wide, x, result, x.numel(), *channels, BLOCK)
        context.channels = wide.shape[1]
        return result

    @staticmethod
    @once_differentiable
    def backward(context, gradient: Tensor) -> tuple[Tensor, Tensor]:
        gradient = _channels_last(gradient)
        batch, channels, height, width = gradient.shape
        of_wide = gradient.new_empty(batch, height, width, context.channels).permute(0, 3, 1, 2)
        widths = (context.channels, channels)
        launch(_widen, _blocks(of_wide), gradient, of_wide, of_wide.numel(), *widths, BLOCK)
        return of_wide, gradient


class Exchange(torch.autograd.Function):
    """Two scales to two mixtures: relu of both first halves, one after the other, and of both last.

    Shape: (B, 2h, H, W) twice -> (B, 2h, H, W) twice.
    """

    @staticmethod
    def forward(context, fine: Tensor, coarse: Tensor) -> tuple[Tensor, Tensor]:
        fine, coarse = _channels_last(fine), _channels_last(coarse)
        first, second = torch.empty_like(fine), torch.empty_like(fine)
        hidden = fine.shape[1] // 2
        launch(_exchange, _blocks(fine), fine, coarse, first, second, fine.numel(), hidden, BLOCK)
        context.save_for_backward(first, second)
        return first, second

    @staticmethod
    @once_differentiable
    def backward(context, of_first: Tensor, of_second: Tensor) -> tuple[Tensor, Tensor]:
        first, second = context.saved_tensors
        of_first, of_second = _channels_last(of_first), _channels_last(of_second)
        of_fine, of_coarse = torch.empty_like(first), torch.empty_like(first)
        launch(
            *(_exchange_back, _blocks(first)),
            *(of_first, of_second, first, second, of_fine, of_coarse),
            *(first.numel(), first.shape[1] // 2, BLOCK),
        )
        return of_fine, of_coarse


class MergePairs(torch.autograd.Function):
    """relu of the sums of neighbouring channels, those of the first input and then the second's.

    Shape: (B, 2h, H, W) twice -> (B, 2h, H, W).
    """

    @staticmethod
    def forward(context, first: Tensor, second: Tensor) -> Tensor:
        first, second = _channels_last(first), _channels_last(second)
        result = torch.empty_like(first)
        hidden = first.shape[1] // 2
        launch(_merge, _blocks(first), first, second, result, first.numel(), hidden, BLOCK)
        context.save_for_backward(result)
        return result

    @staticmethod
    @once_differentiable
    def backward(context, gradient: Tensor) -> tuple[Tensor, Tensor]:
        (result,) = context.saved_tensors
        gradient = _channels_last(gradient)
        of_first, of_second = torch.empty_like(result), torch.empty_like(result)
        launch(
            *(_merge_back, _blocks(result)),
            *(gradient, result, of_first, of_second),
            *(result.numel(), result.shape[1] // 2, BLOCK),
        )
        return of_first, of_second


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def _blocks(x: Tensor) -> tuple[int]:
    return (triton.cdiv(x.numel(), BLOCK),)


@triton.jit
def _place(channels: tl.constexpr, size: tl.constexpr):
    """Which values a program computes, and which pixels and channels they are of."""
    first = tl.program_id(0).to(tl.int64) * size
    step = tl.arange(0, size)
    beyond = (first % channels).to(tl.int32) + step  # from the first one's pixel on
    return first + step, first // channels + beyond // channels, beyond % channels


@triton.jit
def _load(pointer, place, inside):
    return tl.load(pointer + place, mask=inside, other=0.0).to(tl.float32)


@triton.jit
def _relu(x):
    """NaN stays NaN, as in PyTorch: a network that overflows says so."""
    return tl.maximum(x, 0.0, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def _spread(
    rows_pointer,
    columns_pointer,
    result_pointer,
    height,
    width,
    channels: tl.constexpr,
    size: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)  # of all images
    place = tl.program_id(1) * size + tl.arange(0, size)  # in the row
    values = width * channels
    inside = place < values
    total = _load(rows_pointer + row * channels, place % channels, inside)
    total += _load(columns_pointer + (row // height) * values, place, inside)
    tl.store(result_pointer + row * values + place, _relu(total), mask=inside)


@triton.jit
def _gather(
    gradient_pointer,
    rows_pointer,
    columns_pointer,
    of_rows_pointer,
    of_columns_pointer,
    batch,
    height,
    width,
    channels: tl.constexpr,
    side: tl.constexpr,
    padded: tl.constexpr,
    band: tl.constexpr,
):
    """Of some columns of a band: the sums over its rows, and those over the columns."""
    tile, part, image = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    column = tile * side + tl.arange(0, side)[:, None]
    channel = tl.arange(0, padded)[None, :]
    known = channel < channels
    inside = (column < width) & known
    columns = _load(columns_pointer, (image * width + column) * channels + channel, inside)
    of_columns = tl.zeros((side, padded), tl.float32)
    first = part * band
    for row in range(first, tl.minimum(first + band, height)):
        line = image * height + row
        rows = _load(rows_pointer, line * channels + channel, known)
        gradient = _load(gradient_pointer, (line * width + column) * channels + channel, inside)
        gradient = tl.where(rows + columns <= 0, 0.0, gradient)
        of_columns += gradient
        of_rows = tl.sum(gradient, axis=0, keep_dims=True)
        place = (tile * batch * height + line) * channels + channel
        tl.store(of_rows_pointer + place, of_rows, mask=known)
    place = ((part * batch + image) * width + column) * channels + channel
    tl.store(of_columns_pointer + place, of_columns, mask=inside)


@triton.jit
def _gate(scores_pointer, x_pointer, result_pointer, values, size: tl.constexpr):
    place = tl.program_id(0).to(tl.int64) * size + tl.arange(0, size)
    inside = place < values
    gate = tl.sigmoid(_load(scores_pointer, place, inside))
    tl.store(result_pointer + place, gate * _load(x_pointer, place, inside), mask=inside)


@triton.jit
def _gate_back(
    gradient_pointer,
    scores_pointer,
    x_pointer,
    of_scores_pointer,
    of_x_pointer,
    values,
    size: tl.constexpr,
):
    place = tl.program_id(0).to(tl.int64) * size + tl.arange(0, size)
    inside = place < values
    gradient = _load(gradient_pointer, place, inside)
    gate = tl.sigmoid(_load(scores_pointer, place, inside))
    of_scores = gradient * _load(x_pointer, place, inside) * gate * (1 - gate)
    tl.store(of_scores_pointer + place, of_scores, mask=inside)
    tl.store(of_x_pointer + place, gradient * gate, mask=inside)


@triton.jit
def _add_first(
    wide_pointer,
    x_pointer,
    result_pointer,
    values,
    wide_channels: tl.constexpr,
    channels: tl.constexpr,
    size: tl.constexpr,
):
    place, pixel, channel = _place(channels, size)
    inside = place < values
    total = _load(wide_pointer, pixel * wide_channels + channel, inside)
    tl.store(result_pointer + place, total + _load(x_pointer, place, inside), mask=inside)


@triton.jit
def _widen(
    gradient_pointer,
    of_wide_pointer,
    values,
    wide_channels: tl.constexpr,
    channels: tl.constexpr,
    size: tl.constexpr,
):
    place, pixel, channel = _place(wide_channels, size)
    inside = place < values
    gradient = _load(gradient_pointer, pixel * channels + channel, inside & (channel < channels))
    tl.store(of_wide_pointer + place, gradient, mask=inside)


@triton.jit
def _exchange(
    fine_pointer,
    coarse_pointer,
    first_pointer,
    second_pointer,
    values,
    hidden: tl.constexpr,
    size: tl.constexpr,
):
    place, _, channel = _place(2 * hidden, size)
    inside = place < values
    is_first = channel < hidden
    fine = _relu(_load(fine_pointer, place, inside))
    coarse = _relu(_load(coarse_pointer, place, inside))
    tl.store(first_pointer + place, fine, mask=inside & is_first)
    tl.store(first_pointer + place + hidden, coarse, mask=inside & is_first)
    tl.store(second_pointer + place - hidden, fine, mask=inside & (channel >= hidden))
    tl.store(second_pointer + place, coarse, mask=inside & (channel >= hidden))


@triton.jit
def _exchange_back(
    of_first_pointer,
    of_second_pointer,
    first_pointer,
    second_pointer,
    of_fine_pointer,
    of_coarse_pointer,
    values,
    hidden: tl.constexpr,
    size: tl.constexpr,
):
    place, _, channel = _place(2 * hidden, size)
    is_first = (place < values) & (channel < hidden)
    is_second = (place < values) & (channel >= hidden)
    fine = _passed(of_first_pointer, first_pointer, place, is_first)
    fine += _passed(of_second_pointer, second_pointer, place - hidden, is_second)
    coarse = _passed(of_first_pointer, first_pointer, place + hidden, is_first)
    coarse += _passed(of_second_pointer, second_pointer, place, is_second)
    tl.store(of_fine_pointer + place, fine, mask=place < values)
    tl.store(of_coarse_pointer + place, coarse, mask=place < values)


@triton.jit
def _passed(gradient_pointer, result_pointer, place, inside):
    """The gradient, or 0 where the result of a relu is 0."""
    gradient = _load(gradient_pointer, place, inside)
    return tl.where(_load(result_pointer, place, inside) <= 0, 0.0, gradient)


@triton.jit
def _merge(
    first_pointer,
    second_pointer,
    result_pointer,
    values,
    hidden: tl.constexpr,
    size: tl.constexpr,
):
    place, pixel, channel = _place(2 * hidden, size)
    pair = 2 * (pixel * hidden + channel % hidden)
    is_first = (place < values) & (channel < hidden)
    is_second = (place < values) & (channel >= hidden)
    total = _load(first_pointer, pair, is_first) + _load(first_pointer, pair + 1, is_first)
    total += _load(second_pointer, pair, is_second) + _load(second_pointer, pair + 1, is_second)
    tl.store(result_pointer + place, _relu(total), mask=place < values)


@triton.jit
def _merge_back(
    gradient_pointer,
    result_pointer,
    of_first_pointer,
    of_second_pointer,
    values,
    hidden: tl.constexpr,
    size: tl.constexpr,
):
    place, pixel, channel = _place(2 * hidden, size)
    inside = place < values
    first = 2 * pixel * hidden + channel // 2
    tl.store(
        of_first_pointer + place,
        _passed(gradient_pointer, result_pointer, first, inside),
        mask=inside,
    )
    tl.store(
        of_second_pointer + place,
        _passed(gradient_pointer, result_pointer, first + hidden, inside),
        mask=inside,
    )
