"""FFN, the two-scale depth-wise feed-forward network of a transformer block.

Source: the paper's feed-forward figure.

Shapes: B batch, C channels, h = int(expansion * C) hidden channels, H x W pixels.

Deviations: none.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class FFN(nn.Module):
    """Two depth-wise scales (3x3, 5x5), exchanged by halves and merged by grouped convolutions.

    Shape: (B, C, H, W) -> (B, C, H, W). No biases.
    """

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
        x = self.project_in(x)  # (B, 2h, H, W)
        fine_a, fine_b = F.relu(self.depthwise_3x3(x)).chunk(2, dim=1)  # (B, h, H, W) each
        coarse_a, coarse_b = F.relu(self.depthwise_5x5(x)).chunk(2, dim=1)
        a = F.relu(self.merge_3x3(torch.cat([fine_a, coarse_a], dim=1)))  # (B, h, H, W)
        b = F.relu(self.merge_5x5(torch.cat([fine_b, coarse_b], dim=1)))
        return self.project_out(torch.cat([a, b], dim=1))
