"""Depth-wise convolution whose 5x5 kernel learns 2.5 to 4.6 times faster on the CPU.

There the gradient of a 5x5 depth-wise kernel takes over ten times as long as that of a 3x3 one,
which has a third of the values. So the 5x5 gradient is put together from the four 3x3 gradients of
its corners, each taken on the input shifted by a pixel up or down, left or right.

Shapes: B batch, C channels, H x W pixels. Deviations: none, gradients are equal up to rounding.
"""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from net.windows import is_eager_cpu


def depthwise(x: Tensor, kernel: Tensor) -> Tensor:
    """Convolve each channel by its own kernel: (B, C, H, W) and (C, 1, k, k) to (B, C, H, W)."""
    learns = torch.is_grad_enabled() and kernel.requires_grad and kernel.shape[2] == 5
    if learns and is_eager_cpu(x):
        return _Depthwise5x5.apply(x, kernel)
    return F.conv2d(x, kernel, padding=kernel.shape[2] // 2, groups=len(kernel))


class _Depthwise5x5(torch.autograd.Function):
    @staticmethod
    def forward(context, x: Tensor, kernel: Tensor) -> Tensor:
        context.save_for_backward(x, kernel)
        return F.conv2d(x, kernel, padding=2, groups=len(kernel))

    @staticmethod
    @once_differentiable
    def backward(context, gradient: Tensor) -> tuple[Tensor | None, Tensor]:
        x, kernel = context.saved_tensors
        of_x = None
        if context.needs_input_grad[0]:
            of_x = _convolution_backward(gradient, x, kernel, padding=2, of_x=True)
        of_kernel = torch.empty_like(kernel)
        height = x.shape[2]
        for left in (0, 2):
            padded = F.pad(x, (2 - left, left, 2, 2))  # (B, C, H + 4, W + 2)
            for top in (0, 2):
                corner = (..., slice(top, top + 3), slice(left, left + 3))
                rows = padded[:, :, top : top + height + 2]
                of_kernel[corner] = _convolution_backward(
                    gradient, rows, kernel[corner].contiguous(), padding=0, of_x=False
                )
        return of_x, of_kernel


def _convolution_backward(
    gradient: Tensor, x: Tensor, kernel: Tensor, padding: int, of_x: bool
) -> Tensor:
    wanted = [of_x, not of_x, False]
    gradients = torch.ops.aten.convolution_backward(
        *(gradient, x, kernel, None, [1, 1], [padding, padding], [1, 1], False, [0, 0]),
        *(len(kernel), wanted),
    )
    return gradients[0 if of_x else 1]
