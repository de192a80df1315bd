"""AirNet: an encoder of the degradation guides deformable convolutions. Evaluation only.

Source: Li et al., "All-In-One Image Restoration for Unknown Corruption", CVPR 2022, figure 2 (CBDE,
the contrastive encoder; DGRN, the restoration network; DGG, DGB and DGM, its groups, blocks and
modules).

Shapes: B batch, C = 64 channels, H x W pixels. Images are RGB, float, in [0, 1], (B, 3, H, W), of
any size.

Deviations: what only its contrastive training needs (the key encoder, the queue, and all of the
query encoder after its first block) is left out and passed over in checkpoints.
"""

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import deform_conv2d

from net.contract import RestorationNetwork

CHANNELS = 64
SLOPE = 0.1  # of every leaky ReLU
NUM_GROUPS = 5
BLOCKS_PER_GROUP = 5


class EncoderBlock(nn.Module):
    """Residual block with batch norm: (B, C_in, H, W) -> (B, C_out, H, W)."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.backbone = nn.Sequential(
            nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels_out),
            nn.LeakyReLU(SLOPE),
            nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels_out),
        )
        self.shortcut = nn.Sequential(
            nn.Conv2d(channels_in, channels_out, 1, bias=False), nn.BatchNorm2d(channels_out)
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(self.backbone(x) + self.shortcut(x), SLOPE)


class DeformableConv(nn.Module):
    """3x3 modulated deformable convolution; the degradation's features choose where it looks.

    Shape: features and degradation (B, C, H, W) -> (B, C, H, W).
    """

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(CHANNELS, CHANNELS, 3, 3))
        nn.init.kaiming_uniform_(self.weight)
        self.conv_offset_mask = nn.Conv2d(2 * CHANNELS, 27, 3, padding=1)

    def forward(self, x: Tensor, degradation: Tensor) -> Tensor:
        guide = self.conv_offset_mask(torch.cat([x, degradation], dim=1))
        offset, mask = guide.split([18, 9], dim=1)  # y and x of nine taps, and their weights
        return deform_conv2d(x, offset, self.weight, padding=1, mask=mask.sigmoid())


class SFT(nn.Module):
    """Scale and shift by the degradation's features: two (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self) -> None:
        super().__init__()

        def transform() -> nn.Sequential:
            return nn.Sequential(
                nn.Conv2d(CHANNELS, CHANNELS, 1, bias=False),
                nn.LeakyReLU(SLOPE),
                nn.Conv2d(CHANNELS, CHANNELS, 1, bias=False),
            )

        self.conv_gamma = transform()
        self.conv_beta = transform()

    def forward(self, x: Tensor, degradation: Tensor) -> Tensor:
        return x * self.conv_gamma(degradation) + self.conv_beta(degradation)


class DGM(nn.Module):
    """Degradation-Guided Module: x + deformable convolution + scale and shift; shapes as `SFT`."""

    def __init__(self) -> None:
        super().__init__()
        self.dcn = DeformableConv()
        self.sft = SFT()

    def forward(self, x: Tensor, degradation: Tensor) -> Tensor:
        return x + (self.dcn(x, degradation) + self.sft(x, degradation))


class DGB(nn.Module):
    """Degradation-Guided Block: two modules and two convolutions, residual; shapes as `SFT`."""

    def __init__(self) -> None:
        super().__init__()
        self.dgm1 = DGM()
        self.dgm2 = DGM()
        self.conv1 = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)
        self.conv2 = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)

    def forward(self, x: Tensor, degradation: Tensor) -> Tensor:
        out = F.leaky_relu(self.dgm1(x, degradation), SLOPE)
        out = F.leaky_relu(self.conv1(out), SLOPE)
        out = F.leaky_relu(self.dgm2(out, degradation), SLOPE)
        return self.conv2(out) + x


class DGG(nn.Module):
    """Degradation-Guided Group: blocks and a convolution, residual; shapes as `SFT`."""

    def __init__(self) -> None:
        super().__init__()
        blocks = [DGB() for _ in range(BLOCKS_PER_GROUP)]
        self.body = nn.ModuleList([*blocks, nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)])

    def forward(self, x: Tensor, degradation: Tensor) -> Tensor:
        *blocks, conv = self.body
        out = x
        for block in blocks:
            out = block(out, degradation)
        return conv(out) + x


class DGRN(nn.Module):
    """The restoration network: image (B, 3, H, W) and degradation (B, C, H, W) -> (B, 3, H, W)."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Sequential(nn.Conv2d(3, CHANNELS, 3, padding=1))
        body = [DGG() for _ in range(NUM_GROUPS)]
        self.body = nn.ModuleList([*body, nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)])
        self.tail = nn.Sequential(nn.Conv2d(CHANNELS, 3, 3, padding=1))

    def forward(self, image: Tensor, degradation: Tensor) -> Tensor:
        *groups, conv = self.body
        shallow = self.head(image)
        x = shallow
        for group in groups:
            x = group(x, degradation)
        return self.tail(conv(x) + shallow)


class AirNet(RestorationNetwork):
    """Degraded image in, restored image out, blind."""

    configurations: ClassVar = {"paper": {}}
    trainable = False
    unused_weights = ("E.E.queue", "E.E.encoder_k.", "E.E.encoder_q.E.", "E.E.encoder_q.mlp.")
    size_multiple = 1
    inference_bytes_per_pixel = 5000  # 4,508 were measured in float32

    def __init__(self) -> None:
        super().__init__()
        self.R = DGRN()
        query = nn.ModuleDict({"E_pre": EncoderBlock(3, CHANNELS)})
        self.E = nn.ModuleDict({"E": nn.ModuleDict({"encoder_q": query})})

    def forward(self, image: Tensor, named: None = None) -> Tensor:
        """Restore a batch: (B, 3, H, W) in [0, 1] -> (B, 3, H, W), not clipped."""
        degradation = self.E["E"]["encoder_q"]["E_pre"](image)
        return self.R(image, degradation)
