"""SMAM, Simplified Mixed Attention Mechanism: a local branch beside a global strip branch.

Source: the paper's SMAM figure.

Shapes: B batch, C channels, H x W pixels.

Deviations: none in the function; three exact rewrites, equal up to rounding, make it cheaper.
- The strip branch mixes channels by a 1x1 convolution after adding a column of rows to a row of
  columns. The convolution is linear, so it is applied to the two strips before the sum:
  9 C^2 (H + W) operations instead of 9 C^2 H W.
- The output convolution over [local, global] is a sum of two convolutions.
- Nothing non-linear stands between the local 3x3 convolution (2C -> 2C) and its share of the output
  convolution (2C -> C), so the two are composed into one 3x3 convolution (2C -> C):
  18 C^2 H W operations instead of 38 C^2 H W. The composition depends only on the weights, is
  made anew in each call (36 C^3 operations) unless they are kept, and gradients pass through it.
  On a GPU it gets further channels of zeros up to a multiple of 8, which are cut off at the end.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from net.windows import is_eager_gpu

ALIGNMENT = 8  # of channels, for a GPU: 72 took half the time of 68 in a 3x3 convolution in bf16


class SMAM(nn.Module):
    """Local convolutions and a global gate from the row means and column means.

    Shape: (B, C, H, W) -> (B, C, H, W). `local_expansion`: channels inside the local branch per
    channel, 2 in the paper.
    """

    radius = 1  # of the pixels that one output depends on, beside the strips

    def __init__(self, channels: int, local_expansion: int = 2) -> None:
        super().__init__()
        self.channels = channels
        self.local_channels = local_expansion * channels
        self.local_in = nn.Conv2d(channels, self.local_channels, 1)
        self.local_out = nn.Conv2d(self.local_channels, self.local_channels, 3, padding=1)
        self.strip_rows = nn.Conv2d(channels, 3 * channels, (3, 1), padding=(1, 0))
        self.strip_columns = nn.Conv2d(channels, 3 * channels, (1, 3), padding=(0, 1))
        self.strip_mix = nn.Conv2d(3 * channels, 3 * channels, 1)
        self.strip_gate = nn.Conv2d(3 * channels, channels, 1)
        self.project_out = nn.Conv2d(self.local_channels + channels, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.compute(x, *self.strips(*self.means(x)), *self.prepare())

    @staticmethod
    def means(x: Tensor) -> tuple[Tensor, Tensor]:
        """Of the rows, (B, C, H, 1), and of the columns, (B, C, 1, W)."""
        last = x.permute(0, 2, 3, 1)  # (B, H, W, C), as it lies in memory; far slower on x itself
        rows, columns = (last.mean(dim=side, keepdim=True) for side in (2, 1))
        return rows.permute(0, 3, 1, 2), columns.permute(0, 3, 1, 2)

    def strips(self, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
        """What the gate takes from the whole image, of its means: (B, 3C, H, 1), (B, 3C, 1, W)."""
        rows, columns = self.strip_rows(rows), self.strip_columns(columns)
        # the bias is added once, with the columns
        return F.conv2d(rows, self.strip_mix.weight), self.strip_mix(columns)

    def prepare(self) -> tuple[Tensor, ...]:
        """The weights as `compute` takes them."""
        local, project_global = self.project_out.weight.split(
            [self.local_channels, self.channels], dim=1
        )
        local = local[:, :, 0, 0]  # (C, 2C)
        weight = torch.einsum("om,mihw->oihw", local, self.local_out.weight)
        bias = torch.mv(local, self.local_out.bias)
        local_in = self.local_in.weight, self.local_in.bias
        more_in, more_out = (-count % ALIGNMENT for count in (len(local_in[1]), len(bias)))
        if is_eager_gpu(weight) and (more_in or more_out):
            local_in = (
                F.pad(local_in[0], (0, 0, 0, 0, 0, 0, 0, more_in)),
                F.pad(local_in[1], (0, more_in)),
            )
            weight = F.pad(weight, (0, 0, 0, 0, 0, more_in, 0, more_out))
            bias = F.pad(bias, (0, more_out))
        return self.strip_gate.weight, self.strip_gate.bias, *local_in, weight, bias, project_global

    @staticmethod
    def compute(
        x: Tensor,
        rows: Tensor,
        columns: Tensor,
        gate_weight: Tensor,
        gate_bias: Tensor,
        local_in_weight: Tensor,
        local_in_bias: Tensor,
        local_out_weight: Tensor,
        local_out_bias: Tensor,
        project_global: Tensor,
    ) -> Tensor:
        """The function, from strips and from weights in the order of `prepare`."""
        local = F.conv2d(x, local_in_weight, local_in_bias).relu_()  # (B, 2C or more, H, W)
        local = F.conv2d(local, local_out_weight, local_out_bias, padding=1)  # (B, C or more, H, W)
        if is_eager_gpu(x):
            from net import fused

            strips = fused.SpreadStrips.apply(rows, columns)
            gated = fused.Gate.apply(F.conv2d(strips, gate_weight, gate_bias), x)
            gated = F.conv2d(gated, project_global)
            if local.shape == gated.shape:
                return local + gated
            return fused.AddFirst.apply(local, gated)
        gate = F.conv2d((rows + columns).relu_(), gate_weight, gate_bias).sigmoid()  # (B, C, H, W)
        return local + F.conv2d(gate * x, project_global)
