"""PromptIR: Restormer's trunk with a prompt, chosen by the features, before each upsampling.

Source: Potlapalli et al., "PromptIR: Prompting for All-in-One Blind Image Restoration",
NeurIPS 2023, figure 2 (prompt generation and interaction modules).

Shapes: B batch, C channels, H x W pixels, K prompt components, P prompt channels, s prompt size.

Deviations: the published network has six convolutions (215,296 parameters of its 35,592,263) that
never run; they are left out here, and passed over in checkpoints. The last convolution starts at
zero, as in `AMPromptIR`.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from net.baselines.restormer import Block, Restormer, Upsample


class PromptGeneration(nn.Module):
    """Learned maps, weighed by the pooled features: (B, C, H, W) -> (B, P, H, W)."""

    num_components = 5

    def __init__(self, channels: int, prompt_channels: int, prompt_size: int) -> None:
        super().__init__()
        shape = (1, self.num_components, prompt_channels, prompt_size, prompt_size)
        self.prompt_param = nn.Parameter(torch.rand(shape))
        self.linear_layer = nn.Linear(channels, self.num_components)
        self.conv3x3 = nn.Conv2d(prompt_channels, prompt_channels, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        weights = self.linear_layer(x.mean(dim=(2, 3))).softmax(dim=1)  # (B, K)
        prompt = torch.einsum("bk,kpst->bpst", weights, self.prompt_param[0])  # (B, P, s, s)
        prompt = F.interpolate(prompt, x.shape[2:], mode="bilinear", align_corners=False)
        return self.conv3x3(prompt)


class PromptIR(Restormer):
    """Degraded image in, restored image out, blind.

    Args:
        width, expansion, heads, and of the trunk alone blocks, refinement_blocks: as `Restormer`.
        prompt_sizes: side of the learned maps at levels 1, 2 and 3.
    """

    configurations: ClassVar = {
        "paper": dict(
            width=48, blocks=(4, 6, 6, 8), refinement_blocks=4, prompt_sizes=(64, 32, 16)
        ),
        "tiny": dict(width=8, blocks=(1, 1, 1, 1), refinement_blocks=0, prompt_sizes=(16, 8, 4)),
    }
    unused_weights = ("chnl_reduce", "reduce_noise_channel_")

    def __init__(
        self,
        *,
        width: int = 48,
        expansion: float = 2.66,
        heads: Sequence[int] = (1, 2, 4, 8),
        prompt_sizes: Sequence[int] = (64, 32, 16),
        **trunk: Any,
    ) -> None:
        super().__init__(width=width, expansion=expansion, heads=heads, **trunk)
        unit = round(width / 3)
        widths = (2 * width, 4 * width, 8 * width)
        prompt_widths = (4 * unit, 8 * unit, 20 * unit)  # 64, 128, 320 as published
        after_widths = (2 * width, 4 * width, 4 * width)  # what the upsampling is given
        self.up4_3 = Upsample(4 * width)
        self.reduce_chan_level3 = nn.Conv2d(6 * width, 4 * width, 1, bias=False)
        for level in (1, 2, 3):
            channels, prompt_channels = widths[level - 1], prompt_widths[level - 1]
            joined, after = channels + prompt_channels, after_widths[level - 1]
            generate = PromptGeneration(channels, prompt_channels, prompt_sizes[level - 1])
            setattr(self, f"prompt{level}", generate)
            setattr(self, f"noise_level{level}", Block(joined, heads[2], expansion))
            setattr(self, f"reduce_noise_level{level}", nn.Conv2d(joined, after, 1, bias=False))

    def prompt(self, level: int, x: Tensor) -> Tensor:
        """The prompt interaction module: features and prompt through a block, then reduced."""
        generate = getattr(self, f"prompt{level}")
        interact = getattr(self, f"noise_level{level}")
        reduce = getattr(self, f"reduce_noise_level{level}")
        return reduce(interact(torch.cat([x, generate(x)], dim=1)))
