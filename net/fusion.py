"""FEFM, Feature Enhancement and Fusion Module: joins the decoder's features with the skip.

Source: the paper's FEFM figure.

Shapes: B batch, C channels out (2C in), H x W pixels, r reduction.

Deviations: none.
"""

from torch import Tensor, nn
from torch.nn import functional as F


class FEFM(nn.Module):
    """A gate per pixel and channel chooses between local detail and one global value a channel.

    Shape: (B, 2C, H, W) -> (B, C, H, W).
    """

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(2 * channels, channels, 1)
        self.channel_in = nn.Conv2d(2 * channels, 2 * channels // reduction, 1, bias=False)
        self.channel_out = nn.Conv2d(2 * channels // reduction, channels, 1, bias=False)
        self.spatial_in = nn.Conv2d(channels, channels // reduction, 3, padding=1)
        self.spatial_out = nn.Conv2d(channels // reduction, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        detail = self.reduce(x)  # (B, C, H, W)
        summary = F.relu(self.channel_in(x.mean(dim=(2, 3), keepdim=True)))
        summary = self.channel_out(summary)  # (B, C, 1, 1)
        gate = self.spatial_out(F.relu(self.spatial_in(detail))).sigmoid()  # (B, C, H, W)
        return summary + gate * (detail - summary)
