"""Layer norm over the channels of each pixel, as one GPU kernel a direction.

PyTorch's layer norm is written for rows of hundreds of values: on tens of channels it reaches a
small part of the memory's bandwidth, and under autocast it casts to float32 and leaves its output
so. Here a program normalises many pixels at once, in float32, and reads and writes what it is
given (bfloat16 in training). What the backward pass needs of the forward one is computed again.

Shapes: N pixels (of all images), C channels. Deviations: none, results are equal up to rounding to
the input's type.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from net.launch import launch

TILE = 2048  # values of a program's tile, of which it holds a few in registers
PROGRAMS = 1024  # at most, of the backward pass: each adds up gradients of weight and bias


class ChannelNorm(torch.autograd.Function):
    """(B, C, H, W), weight (C,), bias (C,) and epsilon to (B, C, H, W), channels last in memory."""

    @staticmethod
    def forward(context, x: Tensor, weight: Tensor, bias: Tensor, epsilon: float) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        channels = x.shape[1]
        pixels, rows, columns = x.numel() // channels, *_tile(channels)
        result = torch.empty_like(x)
        launch(
            *(_forward, (triton.cdiv(pixels, rows),), x, weight, bias, result),
            *(pixels, epsilon, channels, rows, columns),
        )
        context.save_for_backward(x, weight)
        context.epsilon = epsilon
        return result

    @staticmethod
    @once_differentiable
    def backward(context, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = context.saved_tensors
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        channels = x.shape[1]
        pixels, rows, columns = x.numel() // channels, *_tile(channels)
        programs = min(PROGRAMS, triton.cdiv(pixels, rows))
        of_x = torch.empty_like(x)
        sums = x.new_empty((2, programs, channels), dtype=torch.float32)
        launch(
            *(_backward, (programs,), x, weight, gradient, of_x, sums[0], sums[1]),
            *(pixels, context.epsilon, triton.cdiv(pixels, rows * programs)),
            *(channels, rows, columns),
        )
        of_weight, of_bias = sums.sum(dim=1).to(weight.dtype)
        return of_x, of_weight, of_bias, None


def _tile(channels: int) -> tuple[int, int]:
    """Pixels and channels of a program's tile, powers of two."""
    columns = triton.next_power_of_2(channels)
    return max(1, TILE // columns), columns


@triton.jit
def _normal(x_pointer, row, channel, inside, channels: tl.constexpr, epsilon):
    """The normalised values (rows, columns) of a tile, and the inverse deviation of each row."""
    x = tl.load(x_pointer + row * channels + channel, mask=inside, other=0.0).to(tl.float32)
    mean = tl.sum(x, axis=1, keep_dims=True) / channels
    centred = tl.where(inside, x - mean, 0.0)
    inverse = 1 / tl.sqrt(tl.sum(centred * centred, axis=1, keep_dims=True) / channels + epsilon)
    return centred * inverse, inverse


@triton.jit
def _forward(
    x_pointer,
    weight_pointer,
    bias_pointer,
    result_pointer,
    pixels,
    epsilon,
    channels: tl.constexpr,
    rows: tl.constexpr,
    columns: tl.constexpr,
):
    row = (tl.program_id(0).to(tl.int64) * rows + tl.arange(0, rows))[:, None]
    channel = tl.arange(0, columns)[None, :]
    inside = (row < pixels) & (channel < channels)
    normal, _ = _normal(x_pointer, row, channel, inside, channels, epsilon)
    weight = tl.load(weight_pointer + channel, mask=channel < channels, other=0.0)
    bias = tl.load(bias_pointer + channel, mask=channel < channels, other=0.0)
    tl.store(result_pointer + row * channels + channel, normal * weight + bias, mask=inside)


@triton.jit
def _backward(
    x_pointer,
    weight_pointer,
    gradient_pointer,
    of_x_pointer,
    of_weight_pointer,
    of_bias_pointer,
    pixels,
    epsilon,
    tiles,
    channels: tl.constexpr,
    rows: tl.constexpr,
    columns: tl.constexpr,
):
    program = tl.program_id(0)
    channel = tl.arange(0, columns)[None, :]
    weight = tl.load(weight_pointer + channel, mask=channel < channels, other=0.0).to(tl.float32)
    of_weight = tl.zeros((rows, columns), tl.float32)
    of_bias = tl.zeros((rows, columns), tl.float32)
    first = program.to(tl.int64) * tiles * rows
    for tile in range(tiles):
        row = (first + tile * rows + tl.arange(0, rows))[:, None]
        inside = (row < pixels) & (channel < channels)
        place = row * channels + channel
        normal, inverse = _normal(x_pointer, row, channel, inside, channels, epsilon)
        gradient = tl.load(gradient_pointer + place, mask=inside, other=0.0).to(tl.float32)
        of_weight += gradient * normal
        of_bias += gradient
        weighted = gradient * weight
        mean = tl.sum(weighted, axis=1, keep_dims=True) / channels
        along = tl.sum(weighted * normal, axis=1, keep_dims=True) / channels
        tl.store(of_x_pointer + place, (weighted - mean - normal * along) * inverse, mask=inside)
    sums = program * channels + channel
    of_weight = tl.sum(of_weight, axis=0, keep_dims=True)
    of_bias = tl.sum(of_bias, axis=0, keep_dims=True)
    tl.store(of_weight_pointer + sums, of_weight, mask=channel < channels)
    tl.store(of_bias_pointer + sums, of_bias, mask=channel < channels)
