"""FFN, the two-scale depth-wise feed-forward network of a transformer block.

Source: the paper's feed-forward figure.

Shapes: B batch, C channels, h = int(expansion * C) hidden channels, H x W pixels.

Deviations: none in the function; an exact rewrite, equal up to rounding, makes it cheaper.
- The merging convolutions have h groups of two channels, for which there are only slow kernels. A
  group's output is a depth-wise convolution of its first channel plus one of its second. The hidden
  channels are put in another order (by that of the weights), so that the first channels of all
  groups lie together, and so do the second. On a GPU they keep their order, and one kernel adds the
  two channels of every group (`net.fused`).
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from net.depthwise import depthwise
from net.windows import is_eager_gpu


class FFN(nn.Module):
    """Two depth-wise scales (3x3, 5x5), exchanged by halves and merged by grouped convolutions.

    Shape: (B, C, H, W) -> (B, C, H, W). No biases.
    """

    radius = 4  # of the pixels that one output depends on: two 5x5 convolutions in turn

    def __init__(self, channels: int, expansion: float) -> None:
        super().__init__()
        hidden = int(channels * expansion)

        def grouped(channels_out: int, size: int) -> nn.Conv2d:
            # 2h channels in, a group for each output: one input of its own, or two neighbours
            return nn.Conv2d(
                2 * hidden, channels_out, size, padding=size // 2, groups=channels_out, bias=False
            )

        self.project_in = nn.Conv2d(channels, 2 * hidden, 1, bias=False)
        self.depthwise_3x3 = grouped(2 * hidden, 3)
        self.depthwise_5x5 = grouped(2 * hidden, 5)
        self.merge_3x3 = grouped(hidden, 3)
        self.merge_5x5 = grouped(hidden, 5)
        self.project_out = nn.Conv2d(2 * hidden, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.compute(x, *self.prepare())

    def prepare(self) -> tuple[Tensor, ...]:
        """The weights for `compute`: of each half the even hidden channels, then the odd ones.

        On a GPU, where a kernel adds the channels of a group: in their own order.
        """
        if is_eager_gpu(self.project_in.weight):
            layers = self.depthwise_3x3, self.depthwise_5x5, self.merge_3x3, self.merge_5x5
            kernels = (layer.weight.reshape(-1, 1, *layer.kernel_size) for layer in layers)
            return self.project_in.weight, *kernels, self.project_out.weight

        def reorder(layer: nn.Conv2d) -> Tensor:
            halves = layer.weight.chunk(2)
            return torch.cat([half[start::2] for half in halves for start in (0, 1)])

        return (
            reorder(self.project_in),
            reorder(self.depthwise_3x3),
            reorder(self.depthwise_5x5),
            *self.merge_3x3.weight.split(1, dim=1),
            *self.merge_5x5.weight.split(1, dim=1),
            self.project_out.weight,
        )

    @staticmethod
    def compute(x: Tensor, *weights: Tensor) -> Tensor:
        """The function, from weights in the order of `prepare`."""
        return (FFN._compute_in_kernels if is_eager_gpu(x) else FFN._compute_reordered)(x, *weights)

    @staticmethod
    def _compute_in_kernels(
        x: Tensor,
        project_in: Tensor,
        depthwise_3x3: Tensor,
        depthwise_5x5: Tensor,
        merge_3x3: Tensor,
        merge_5x5: Tensor,
        project_out: Tensor,
    ) -> Tensor:
        from net import fused

        x = F.conv2d(x, project_in)  # (B, 2h, H, W)
        first, second = fused.Exchange.apply(
            depthwise(x, depthwise_3x3), depthwise(x, depthwise_5x5)
        )
        del x  # and each map as soon as it was read: they are the peak of memory
        first = depthwise(first, merge_3x3)
        second = depthwise(second, merge_5x5)
        return F.conv2d(fused.MergePairs.apply(first, second), project_out)

    @staticmethod
    def _compute_reordered(
        x: Tensor,
        project_in: Tensor,
        depthwise_3x3: Tensor,
        depthwise_5x5: Tensor,
        first_3x3: Tensor,
        second_3x3: Tensor,
        first_5x5: Tensor,
        second_5x5: Tensor,
        project_out: Tensor,
    ) -> Tensor:
        hidden = len(first_3x3)
        parts = [(hidden + 1) // 2, hidden // 2] * 2  # even and odd channels of both halves

        x = F.conv2d(x, project_in)  # (B, 2h, H, W)
        fine = depthwise(x, depthwise_3x3).relu_().split(parts, dim=1)
        coarse = depthwise(x, depthwise_5x5).relu_().split(parts, dim=1)

        def merge(fine: Sequence[Tensor], coarse: Sequence[Tensor], *kernels: Tensor) -> Tensor:
            if hidden % 2:  # the coarse channels follow an odd number of fine ones
                coarse = coarse[::-1]
            pairs = zip(fine, coarse, kernels, strict=True)  # the first channels, then the second
            first, second = (depthwise(torch.cat(parts, dim=1), kernel) for *parts, kernel in pairs)
            return first + second  # (B, h, H, W)

        a = merge(fine[:2], coarse[:2], first_3x3, second_3x3)
        b = merge(fine[2:], coarse[2:], first_5x5, second_5x5)
        return F.conv2d(torch.cat([a, b], dim=1).relu_(), project_out)
