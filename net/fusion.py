"""FEFM, Feature Enhancement and Fusion Module: joins the decoder's features with the skip.

Source: the paper's FEFM figure.

Shapes: B batch, C channels out (2C in), H x W pixels, r reduction.

Deviations: none.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from net.windows import add_in_windows


class FEFM(nn.Module):
    """A gate per pixel and channel chooses between local detail and one global value a channel.

    Shape: (B, 2C, H, W) -> (B, C, H, W). Without gradients the gate is computed in windows.
    """

    radius = 2  # of the detail's pixels that one output depends on

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
        layers = self.spatial_in, self.spatial_out
        weights = [weight for layer in layers for weight in (layer.weight, layer.bias)]
        images = detail, summary
        if torch.is_grad_enabled():  # windows would be computed again for the gradients
            return detail + _to_summary(*images, *weights)
        channels = sum(layer.out_channels for layer in layers)
        return add_in_windows(
            detail, _to_summary, images, weights, radius=self.radius, channels=channels
        )


def _to_summary(
    detail: Tensor,
    summary: Tensor,
    in_weight: Tensor,
    in_bias: Tensor,
    out_weight: Tensor,
    out_bias: Tensor,
) -> Tensor:
    """What detail lacks of summary + gate * (detail - summary): (1 - gate) * (summary - detail)."""
    hidden = F.conv2d(detail, in_weight, in_bias, padding=1).relu_()
    # 1 - sigmoid(x) is sigmoid(-x)
    shut = F.conv2d(hidden, -out_weight, -out_bias, padding=1).sigmoid()  # (B, C, H, W)
    return shut * (summary - detail)
