"""Restormer: a four-level U-Net of transformer blocks that attend across channels.

Source: Zamir et al., "Restormer: Efficient Transformer for High-Resolution Image Restoration",
CVPR 2022, figure 2 (MDTA, GDFN). Layer norms have a bias, as in the published deraining networks,
or none, as in the published denoising ones.

Shapes: B batch, C channels, h heads, H x W pixels. Images are RGB, float, in [0, 1], (B, 3, H, W);
H and W are multiples of 8. Parameters have their published names, so that such checkpoints load.

Deviations: the last convolution starts at zero, as in `AMPromptIR`, so that networks trained for a
comparison start from the same function, the identity.
"""

from collections.abc import Collection, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from net.contract import RestorationNetwork
from net.layers import ChannelLayerNorm


class MDTA(nn.Module):
    """Multi-Dconv head Transposed Attention: attention between the channels of each head.

    Shape: (B, C, H, W) -> (B, C, H, W); C is a multiple of the heads.
    """

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))
        self.qkv = nn.Conv2d(channels, 3 * channels, 1, bias=False)
        self.qkv_dwconv = nn.Conv2d(
            3 * channels, 3 * channels, 3, padding=1, groups=3 * channels, bias=False
        )
        self.project_out = nn.Conv2d(channels, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        qkv = self.qkv_dwconv(self.qkv(x))
        qkv = qkv.reshape(batch, 3, self.heads, channels // self.heads, height * width)
        query, key, value = qkv.unbind(dim=1)  # (B, h, C/h, HW)
        query = F.normalize(query, dim=-1)
        key = F.normalize(key, dim=-1)
        weights = (query @ key.transpose(-2, -1) * self.temperature).softmax(dim=-1)
        x = weights @ value
        return self.project_out(x.reshape(batch, channels, height, width))


class GDFN(nn.Module):
    """Gated-Dconv Feed-forward Network.

    Shape: (B, C, H, W) -> (B, C, H, W).
    """

    def __init__(self, channels: int, expansion: float) -> None:
        super().__init__()
        hidden = int(channels * expansion)
        self.project_in = nn.Conv2d(channels, 2 * hidden, 1, bias=False)
        self.dwconv = nn.Conv2d(2 * hidden, 2 * hidden, 3, padding=1, groups=2 * hidden, bias=False)
        self.project_out = nn.Conv2d(hidden, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, x = self.dwconv(self.project_in(x)).chunk(2, dim=1)
        return self.project_out(F.gelu(gate) * x)


class BiasFreeLayerNorm(nn.Module):
    """Layer norm over the channels of each pixel that neither centres them nor adds a bias.

    Shape: (B, C, H, W) -> (B, C, H, W).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        variance = x.var(dim=1, correction=0, keepdim=True)  # (B, 1, H, W)
        return x * (variance + 1e-5).rsqrt() * self.weight[:, None, None]


class LayerNorm(nn.Module):
    """One of the two layer norms under the name that published checkpoints have for it."""

    def __init__(self, channels: int, bias_free: bool) -> None:
        super().__init__()
        self.body = (BiasFreeLayerNorm if bias_free else ChannelLayerNorm)(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


class Block(nn.Module):
    """x + MDTA(norm(x)), then x + GDFN(norm(x)).

    Shape: (B, C, H, W) -> (B, C, H, W).
    """

    def __init__(
        self, channels: int, heads: int, expansion: float, bias_free: bool = False
    ) -> None:
        super().__init__()
        self.norm1 = LayerNorm(channels, bias_free)
        self.attn = MDTA(channels, heads)
        self.norm2 = LayerNorm(channels, bias_free)
        self.ffn = GDFN(channels, expansion)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.ffn(self.norm2(x))


class Embedding(nn.Module):
    """3x3 convolution from RGB: (B, 3, H, W) -> (B, C, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, channels, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x)


class Downsample(nn.Module):
    """3x3 convolution C -> C/2, then pixel unshuffle: (B, C, H, W) -> (B, 2C, H/2, W/2)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        conv = nn.Conv2d(channels, channels // 2, 3, padding=1, bias=False)
        self.body = nn.Sequential(conv, nn.PixelUnshuffle(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


class Upsample(nn.Module):
    """3x3 convolution C -> 2C, then pixel shuffle: (B, C, H, W) -> (B, C/2, 2H, 2W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        conv = nn.Conv2d(channels, 2 * channels, 3, padding=1, bias=False)
        self.body = nn.Sequential(conv, nn.PixelShuffle(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


class Restormer(RestorationNetwork):
    """Degraded image in, restored image out; there is nothing to tell it (blind).

    Args:
        width: channels at full resolution, an even number.
        blocks: transformer blocks per level, the latent last.
        refinement_blocks: blocks after the last decoder level.
        expansion: hidden channels of the feed-forward per channel.
        heads: of the attention, per level.
        bias_free: whether layer norms have no bias and do not centre.
    """

    configurations: ClassVar = {
        "paper": dict(width=48, blocks=(4, 6, 6, 8), refinement_blocks=4),
        "tiny": dict(width=8, blocks=(1, 1, 1, 1), refinement_blocks=0),
    }
    block = Block

    def __init__(
        self,
        *,
        width: int = 48,
        blocks: Sequence[int] = (4, 6, 6, 8),
        refinement_blocks: int = 4,
        expansion: float = 2.66,
        heads: Sequence[int] = (1, 2, 4, 8),
        bias_free: bool = False,
    ) -> None:
        super().__init__()
        if width < 2 or width % 2:
            raise ValueError(f"width {width}: expected an even number, 2 or above")
        # measured on the CPU in float32: 121 to 143 bytes a pixel and unit of width, PromptIR too
        self.inference_bytes_per_pixel = 160 * width
        widths = [width * 2**level for level in range(4)]

        def stage(channels: int, num_heads: int, num_blocks: int) -> nn.Sequential:
            return nn.Sequential(
                *(Block(channels, num_heads, expansion, bias_free) for _ in range(num_blocks))
            )

        self.patch_embed = Embedding(width)
        self.encoder_level1 = stage(widths[0], heads[0], blocks[0])
        self.down1_2 = Downsample(widths[0])
        self.encoder_level2 = stage(widths[1], heads[1], blocks[1])
        self.down2_3 = Downsample(widths[1])
        self.encoder_level3 = stage(widths[2], heads[2], blocks[2])
        self.down3_4 = Downsample(widths[2])
        self.latent = stage(widths[3], heads[3], blocks[3])

        self.up4_3 = Upsample(widths[3])
        self.reduce_chan_level3 = nn.Conv2d(widths[3], widths[2], 1, bias=False)
        self.decoder_level3 = stage(widths[2], heads[2], blocks[2])
        self.up3_2 = Upsample(widths[2])
        self.reduce_chan_level2 = nn.Conv2d(widths[2], widths[1], 1, bias=False)
        self.decoder_level2 = stage(widths[1], heads[1], blocks[1])
        self.up2_1 = Upsample(widths[1])
        self.decoder_level1 = stage(widths[1], heads[0], blocks[0])
        self.refinement = stage(widths[1], heads[0], refinement_blocks)
        self.output = nn.Conv2d(widths[1], 3, 3, padding=1, bias=False)
        nn.init.zeros_(self.output.weight)

    @classmethod
    def published_arguments(cls, names: Collection[str]) -> dict[str, Any]:
        """Those of `paper`; the names tell whether layer norms have a bias."""
        bias_free = not any(name.endswith("norm1.body.bias") for name in names)
        return super().published_arguments(names) | ({"bias_free": True} if bias_free else {})

    def forward(self, image: Tensor, named: None = None) -> Tensor:
        """Restore a batch: (B, 3, H, W) in [0, 1] -> (B, 3, H, W), not clipped.

        Raises:
            ValueError: H or W is not a multiple of 8.
        """
        self.check_size(image)
        skip1 = self.encoder_level1(self.patch_embed(image))  # (B, C, H, W)
        skip2 = self.encoder_level2(self.down1_2(skip1))  # (B, 2C, H/2, W/2)
        skip3 = self.encoder_level3(self.down2_3(skip2))  # (B, 4C, H/4, W/4)
        x = self.latent(self.down3_4(skip3))  # (B, 8C, H/8, W/8)

        x = torch.cat([self.up4_3(self.prompt(3, x)), skip3], dim=1)
        x = self.decoder_level3(self.reduce_chan_level3(x))
        x = torch.cat([self.up3_2(self.prompt(2, x)), skip2], dim=1)
        x = self.decoder_level2(self.reduce_chan_level2(x))
        x = torch.cat([self.up2_1(self.prompt(1, x)), skip1], dim=1)
        x = self.refinement(self.decoder_level1(x))  # (B, 2C, H, W)
        return image + self.output(x)

    def prompt(self, level: int, x: Tensor) -> Tensor:
        """What enters the decoder's level besides its features: nothing here."""
        return x
