"""FIM and AMPG: a prompt made from the image and from text, and how it enters the decoder.

Source: the paper's AMPG and FIM figures.

Shapes: B batch, C channels, H x W pixels, K degradations, E text-embedding width, s prompt size.

Deviations from the released code (the paper's figure shows what is done here):
- the text prompt is the frozen text embedding of a degradation, mixed for each image by itself
  (the released code folds token numbers of the whole batch into the image height);
- when nobody names the degradation, the weights read off the image mix the texts as well (blind).

The text prompt is constant over the image, so it stays (B, C, 1, 1) until it is broadcast.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from net.layers import TransformerBlock, channels_last


class FIM(nn.Module):
    """Feature Interaction Module: each prompt gates the other, then both are added.

    Shape: image prompt (B, C, H, W) and text prompt (B, C, H, W) or (B, C, 1, 1) -> (B, C, H, W).
    """

    reduction = 16

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.spatial_gate = nn.Conv2d(2, 1, 7, padding=3, bias=False)
        hidden = max(1, channels // self.reduction)
        self.channel_gate_in = nn.Conv2d(channels, hidden, 1, bias=False)
        self.channel_gate_out = nn.Conv2d(hidden, channels, 1, bias=False)
        self.project = nn.Conv2d(channels, channels, 1)

    def forward(self, image_prompt: Tensor, text_prompt: Tensor) -> Tensor:
        height, width = image_prompt.shape[2:]

        strongest = text_prompt.amax(dim=1, keepdim=True)
        average = text_prompt.mean(dim=1, keepdim=True)
        statistics = torch.cat([strongest, average], dim=1).expand(-1, -1, height, width)
        spatial_gate = self.spatial_gate(statistics).sigmoid()  # (B, 1, H, W)

        average = self._channel_scores(image_prompt.mean(dim=(2, 3), keepdim=True))
        strongest = self._channel_scores(image_prompt.amax(dim=(2, 3), keepdim=True))
        channel_gate = (average + strongest).sigmoid()  # (B, C, 1, 1)

        mixed = torch.addcmul(channel_gate * text_prompt, spatial_gate, image_prompt)
        return self.project(mixed)

    def _channel_scores(self, pooled: Tensor) -> Tensor:
        return self.channel_gate_out(F.relu(self.channel_gate_in(pooled)))


class AMPG(nn.Module):
    """Adaptive Multi-modal Prompt Generation: text and learned maps, chosen by the features.

    Shape: features (B, C, H, W), text table (K, E) and `named` (B, K) -> the prompt (B, C, H, W),
    and the scores (B, K) whose softmax are the weights read off the image. Without a text width
    there is no text side (an ablation): the table is None and `named` unused.
    """

    def __init__(
        self, channels: int, num_degradations: int, prompt_size: int, text_width: int | None
    ) -> None:
        super().__init__()
        self.has_text = text_width is not None
        if self.has_text:
            self.project_text = nn.Linear(text_width, channels)
        self.weigh = nn.Linear(channels, num_degradations)
        self.maps = nn.Parameter(torch.rand(num_degradations, channels, prompt_size, prompt_size))
        self.interact = FIM(channels) if self.has_text else nn.Conv2d(channels, channels, 1)
        self.prompt_scale = nn.Parameter(torch.ones(channels, 1, 1))
        self.feature_scale = nn.Parameter(torch.zeros(channels, 1, 1))

    def forward(
        self, features: Tensor, text_table: Tensor | None, named: Tensor
    ) -> tuple[Tensor, Tensor]:
        scores = self.weigh(features.mean(dim=(2, 3)))  # (B, K)
        weights = scores.softmax(dim=1)

        prompt = self.prompt_scale * self._interact(weights, text_table, named, features.shape[2:])
        return torch.addcmul(prompt, self.feature_scale, features), scores

    def _interact(
        self, weights: Tensor, text_table: Tensor | None, named: Tensor, size: tuple[int, int]
    ) -> Tensor:
        """The prompt before it is scaled, (B, C, H, W)."""
        maps = channels_last(torch.einsum("bk,kchw->bchw", weights, self.maps))  # (B, C, s, s)
        image_prompt = F.interpolate(maps, size, mode="bilinear", align_corners=False)
        if not self.has_text:
            return self.interact(image_prompt)
        # a row of `named` that sums to 1 decides; a row of zeros leaves it to the image
        text_weights = named + (1 - named.sum(dim=1, keepdim=True)) * weights  # (B, K)
        text_prompt = self.project_text(text_weights @ text_table)[:, :, None, None]
        return self.interact(image_prompt, text_prompt)


class PromptBlock(nn.Module):
    """AMPG beside the features, a transformer block over both, and back to C channels.

    Shape: as `AMPG`, whose scores it passes on. `attention` is the transformer block's. If not
    `wide`, both go to C channels before the transformer block, which the paper has at 2C.
    """

    def __init__(
        self,
        channels: int,
        expansion: float,
        num_degradations: int,
        prompt_size: int,
        text_width: int | None,
        attention: Callable[[int], nn.Module],
        wide: bool = True,
    ) -> None:
        super().__init__()
        self.wide = wide
        self.generate = AMPG(channels, num_degradations, prompt_size, text_width)
        self.block = TransformerBlock(2 * channels if wide else channels, expansion, attention)
        self.reduce = nn.Conv2d(2 * channels, channels, 1, bias=False)

    def forward(
        self, features: Tensor, text_table: Tensor | None, named: Tensor
    ) -> tuple[Tensor, Tensor]:
        prompt, scores = self.generate(features, text_table, named)
        if self.wide:
            joined = torch.cat([features, prompt], dim=1)  # (B, 2C, H, W)
            return self.reduce(self.block(joined)), scores
        # a convolution over [features, prompt] is a sum of two
        of_features, of_prompt = self.reduce.weight.chunk(2, dim=1)
        reduced = F.conv2d(features, of_features).add_(F.conv2d(prompt, of_prompt))
        return self.block(reduced), scores
