"""AMPromptIR: the four-level U-Net that restores an image under generated prompts.

Source: the paper's overall architecture figure.

Shapes: B batch, H x W pixels, K degradations, E text-embedding width. Images are RGB, float, in
[0, 1], (B, 3, H, W); H and W are multiples of 8 (padding is the caller's, `utils.inference`).

Deviations:
- from the paper: blind by default; a degradation is named only when the user says so;
- from the paper: the last convolution starts at zero, so training starts from the identity;
- from the paper, in `small` and `tiny` only: about as many channels on each level, a narrow
  feed-forward, SMAM's local branch and the prompt blocks' transformer at C channels;
- from the released code: no parameter without a gradient (19 % of its 64.8 M), no device in the
  code, one image's output independent of its neighbours in the batch.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import ClassVar

import torch
from torch import Tensor, nn

from net.attention import SMAM
from net.baselines.restormer import MDTA
from net.contract import RestorationNetwork
from net.fusion import FEFM
from net.hub import OnHub
from net.layers import Downsample, TransformerBlock, Upsample
from net.prompts import PromptBlock
from net.streaming import Streamed, regions
from net.text import CLIP_WIDTH, TEXT_SOURCES, TextTable


class AMPromptIR(RestorationNetwork, OnHub):
    """All-in-one restoration: degraded image in, restored image out.

    Args:
        width: channels at full resolution.
        growth: of the channels from level to level, 1 to 2; they are rounded to multiples of 4.
        blocks: transformer blocks per level, the latent last.
        refinement_blocks: blocks after the last decoder level.
        expansion: hidden channels of the feed-forward per channel.
        local_expansion: the same for the local branch of SMAM.
        wide_prompts: whether a prompt block's transformer block sees features and prompt side by
            side (2C channels); otherwise a 1x1 convolution joins them to C channels before it.
        prompt_sizes: side of the learned prompt maps at levels 2, 3 and 4.
        num_degradations: K.
        text: `clip` (a table to be filled from CLIP or a checkpoint), `learned`, or `none` for
            prompts made from the image alone (an ablation; such a network cannot be told anything).
        text_width: E.
        attention: `smam`, or `mdta` for Restormer's attention in its place (an ablation).
        fusion: `fefm`, or `concatenation` and a 1x1 convolution in its place (an ablation).
    """

    configurations: ClassVar = {
        "paper": dict(
            width=24, blocks=(2, 4, 4, 8), refinement_blocks=2, prompt_sizes=(64, 32, 16)
        ),
        "small": dict(  # an eighth of the multiply-accumulates of `paper` as released, for one GPU
            width=34,
            growth=1,
            blocks=(1, 2, 2, 4),
            refinement_blocks=1,
            expansion=0.67,
            local_expansion=1,
            wide_prompts=False,
            prompt_sizes=(64, 32, 16),
        ),
        "tiny": dict(  # for training on two CPU cores
            width=16,
            growth=1,
            blocks=(1, 1, 1, 1),
            refinement_blocks=0,
            expansion=0.67,
            local_expansion=1,
            wide_prompts=False,
            prompt_sizes=(16, 8, 4),
        ),
    }
    choices: ClassVar = {
        "text": TEXT_SOURCES,
        "attention": ("smam", "mdta"),
        "fusion": ("fefm", "concatenation"),
    }
    gives_scores = True
    block = TransformerBlock
    degradation_rows = ("text.embeddings", ".weigh.weight", ".weigh.bias", ".maps")
    fusion_reductions = (4, 8)  # levels 2 and 3

    def __init__(
        self,
        *,
        width: int = 24,
        growth: float = 2,
        blocks: Sequence[int] = (2, 4, 4, 8),
        refinement_blocks: int = 2,
        expansion: float = 2.66,
        local_expansion: int = 2,
        wide_prompts: bool = True,
        prompt_sizes: Sequence[int] = (64, 32, 16),
        num_degradations: int = 5,
        text: str = "clip",
        text_width: int = CLIP_WIDTH,
        attention: str = "smam",
        fusion: str = "fefm",
    ) -> None:
        super().__init__()
        chosen = {"text": text, "attention": attention, "fusion": fusion}
        for name, value in chosen.items():
            if value not in self.choices[name]:
                expected = ", ".join(self.choices[name])
                raise ValueError(f"{name} {value!r}: expected one of {expected}")
        if width < 8 or width % 2:
            raise ValueError(f"width {width}: expected an even number, 8 or above")
        if not 1 <= growth <= 2:
            raise ValueError(f"growth {growth}: expected a number from 1 to 2")
        self.num_degradations = num_degradations
        # measured on the CPU in float32, a pixel and unit of width: 272 bytes with expansion 2.66
        # (paper), 117 (tiny) and 106 (small) with 0.67; large images 15.6, 14.8 and 13.6 of what is
        # beyond 1024 x 1024; streamed, a pixel takes 68 (tiny) and 131 to 148 (small), and by the
        # maps of level 2 that are held at once up to 280 (paper)
        self.inference_bytes_per_pixel = math.ceil((70 + 85 * expansion) * width)
        self.can_be_named = text != "none"
        self.text = TextTable(text, num_degradations, text_width) if self.can_be_named else None
        prompt_text_width = text_width if self.can_be_named else None
        widths = [width, *(4 * round(width * growth**level / 4) for level in (1, 2, 3))]
        if attention == "smam":
            self.windowed_bytes_per_pixel = 17 * width
            self.streamed_bytes_per_pixel = 20 + (6 if wide_prompts else 4) * widths[1]
        decoder_widths = [2 * width, *widths[1:3]]  # full resolution keeps the concatenated skip

        def attend(channels: int) -> nn.Module:
            heads = math.gcd(channels, channels // width)  # of about `width` channels each
            smam = attention == "smam"
            return SMAM(channels, local_expansion) if smam else MDTA(channels, heads)

        def stage(channels: int, num_blocks: int) -> nn.Sequential:
            return nn.Sequential(
                *(TransformerBlock(channels, expansion, attend) for _ in range(num_blocks))
            )

        def fuse(channels: int, reduction: int) -> nn.Module:
            if fusion == "fefm":
                return FEFM(channels, reduction)
            return nn.Conv2d(2 * channels, channels, 1, bias=False)

        self.embed = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.encoders = nn.ModuleList(map(stage, widths[:3], blocks[:3]))
        self.downsamples = nn.ModuleList(map(Downsample, widths[:3], widths[1:]))
        self.latent = stage(widths[3], blocks[3])
        self.prompts = nn.ModuleList(
            PromptBlock(
                channels, expansion, num_degradations, size, prompt_text_width, attend, wide_prompts
            )
            for channels, size in zip(widths[1:], prompt_sizes, strict=True)
        )
        self.upsamples = nn.ModuleList(map(Upsample, widths[1:], widths[:3]))
        self.fusions = nn.ModuleList(
            [nn.Identity(), *map(fuse, widths[1:3], self.fusion_reductions)]
        )
        self.decoders = nn.ModuleList(map(stage, decoder_widths, blocks[:3]))
        self.refinement = stage(decoder_widths[0], refinement_blocks)
        self.output = nn.Conv2d(decoder_widths[0], 3, 3, padding=1, bias=False)
        nn.init.zeros_(self.output.weight)
        self.to(memory_format=torch.channels_last)  # as the layer norms leave their output

    def forward(
        self,
        image: Tensor,
        named: Tensor | None = None,
        with_scores: bool = False,
        streamed: bool = False,
        on_region: Callable[[int, int], None] | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Restore a batch.

        Args:
            image: degraded, (B, 3, H, W), in [0, 1].
            named: (B, K), what is said to be wrong with each image: a one-hot row names a
                degradation, weights that sum to 1 mix several, a row of zeros is blind. None is
                blind throughout.
            with_scores: whether to tell what the network took to be wrong, too.
            streamed: whether to spare memory for time, on images that are large (net/streaming.py).
            on_region: called while streaming with how many regions have been read, of how many in
                all; the later ones take longer.

        Returns:
            Restored (B, 3, H, W), not clipped; with scores also (B, 3, K), a score of each
            degradation read off the image at levels 4, 3 and 2: its softmax weighs the prompts.

        Raises:
            ValueError: not (B, 3, H, W) with multiples of 8; `streamed` with other attention than
                `smam`.
        """
        self.check_size(image)
        if streamed and not self.streamed_bytes_per_pixel:
            raise ValueError("streamed: only with attention smam, which is local but for strips")
        if named is None:
            named = image.new_zeros(len(image), self.num_degradations)

        if streamed:
            size = image.shape[2:]
            passes = len(self.encoders[0]) + len(self.decoders[0]) + len(self.refinement) + 2
            total, done = passes * len(regions(size)), itertools.count(1)

            def tell() -> None:
                if on_region:
                    on_region(next(done), total)

            skip = Streamed.of(image, self.embed, radius=1, on_read=tell)
            for block in self.encoders[0]:
                skip = skip.through(block)
            x, scores = self._below(skip.held(self.downsamples[0], radius=2, scale=2), named)
            decoded = skip.joined_with(x, self.upsamples[0])
            for block in (*self.decoders[0], *self.refinement):
                decoded = decoded.through(block)
            change = decoded.held(self.output, radius=1)
        else:
            skip = self.encoders[0](self.embed(image))  # (B, C, H, W)
            x, scores = self._below(self.downsamples[0](skip), named)  # (B, C below, H/2, W/2)
            x = self.upsamples[0].beside(x, skip)  # (B, 2C, H, W)
            del skip
            x = self.decoders[0](x)
            x = self.refinement(x)
            change = self.output(x)
        restored = image + change
        return (restored, scores) if with_scores else restored

    def _below(self, x: Tensor, named: Tensor) -> tuple[Tensor, Tensor]:
        """Levels 2 to 4 and the prompts, (B, C, H/2, W/2) -> the same, and the scores (B, 3, K)."""
        text_table = self.text() if self.can_be_named else None
        skips = []
        for encoder, downsample in zip(self.encoders[1:], self.downsamples[1:], strict=True):
            x = encoder(x)
            skips.append(x)
            x = downsample(x)  # (B, C of the next level, half of H, half of W)

        x = self.latent(x)  # (B, C, H/8, W/8)

        scores = []
        for level in (2, 1):
            x, level_scores = self.prompts[level](x, text_table, named)
            scores.append(level_scores)
            x = self.upsamples[level].beside(x, skips.pop())  # (B, 2C of the level above, 2H, 2W)
            x = self.fusions[level](x)
            x = self.decoders[level](x)
        x, level_scores = self.prompts[0](x, text_table, named)
        scores.append(level_scores)
        return x, torch.stack(scores, dim=1)

    @contextmanager
    def weights_kept(self) -> Iterator[None]:
        with ExitStack() as stack:
            for module in self.modules():
                if isinstance(module, self.block):
                    stack.enter_context(module.weights_kept())
            yield

    def name_degradation(self, index: int | Tensor, batch: int) -> Tensor:
        """`named` for a batch that has one degradation: a one-hot row each, (batch, K)."""
        one_hot = torch.zeros(batch, self.num_degradations, device=self.embed.weight.device)
        one_hot[:, index] = 1
        return one_hot
