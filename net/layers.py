"""Layers every level shares: channel layer norm, resampling and the transformer block.

Source: the paper's architecture figure; the trunk is Restormer's.

Shapes: B batch, C channels, H x W pixels.

Deviations: none from the paper. The released code normalises after flattening H x W; here the
statistics are taken on the same C values of each pixel through one `layer_norm` call.
"""

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from net.attention import SMAM
from net.feedforward import FFN
from net.windows import add_in_windows, bands, is_eager_gpu, is_large

EPSILON = 1e-5
KEEPING = threading.Lock()  # threads may restore with one network at once


class ChannelLayerNorm(nn.LayerNorm):
    """Layer norm over the channels of each pixel (biased variance, eps 1e-5, weight and bias).

    Shape: (B, C, H, W) -> (B, C, H, W).
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=EPSILON)

    def forward(self, x: Tensor) -> Tensor:
        return normalise(x, *self.values())

    def values(self) -> tuple[Tensor, Tensor]:
        """Weight and bias, as `normalise` takes them."""
        return self.weight, self.bias


def normalise(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """What `ChannelLayerNorm` computes."""
    if is_eager_gpu(x):
        from net.channel_norm import ChannelNorm

        return ChannelNorm.apply(x, weight, bias, EPSILON)
    x = x.permute(0, 2, 3, 1)  # (B, H, W, C)
    x = F.layer_norm(x, weight.shape, weight, bias, EPSILON)
    return x.permute(0, 3, 1, 2)


class TransformerBlock(nn.Module):
    """Pre-norm block: x + SMAM(norm(x)), then x + FFN(norm(x)), each computed in windows.

    Shape: (B, C, H, W) -> (B, C, H, W). `attention` makes another module in SMAM's place. Without
    gradients the input may be overwritten: in the network nobody else needs it, and a hook that
    keeps it must keep a clone.
    """

    def __init__(
        self, channels: int, expansion: float, attention: Callable[[int], nn.Module] = SMAM
    ) -> None:
        super().__init__()
        self.attention_norm = ChannelLayerNorm(channels)
        self.attention = attention(channels)
        self.feedforward_norm = ChannelLayerNorm(channels)
        self.feedforward = FFN(channels, expansion)
        self._kept: tuple[tuple[Tensor, ...], tuple[Tensor, ...]] | None = None
        self._keepers = 0

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(self.attention, SMAM) and is_large(x):
            # it is normalised twice, and nothing else as large is held
            parts = (((span, slice(None)), x[:, :, span]) for span, _, _ in bands(x, x.shape[1]))
            return self.compute(x, *self.strips(x.shape[2:], parts))
        attention_weights, feedforward_weights = self._weights()
        x = self._attend(x, attention_weights)
        return self._feed_forward(x, feedforward_weights)

    def strips(
        self, size: tuple[int, int], parts: Iterable[tuple[tuple[slice, slice], Tensor]]
    ) -> tuple[Tensor, Tensor]:
        """`SMAM.strips` of the normalised image of H x W, from the parts that make it up.

        parts: rows and columns, and x there.
        """
        height, width = size
        across = down = None
        for (rows, columns), x in parts:
            if across is None:
                across = x.new_zeros(*x.shape[:2], height, 1)
                down = x.new_zeros(*x.shape[:2], 1, width)
            of_rows, of_columns = SMAM.means(self.attention_norm(x))
            across[:, :, rows] += of_rows * (x.shape[3] / width)
            down[:, :, :, columns] += of_columns * (x.shape[2] / height)
            del x  # before the next one is made
        return self.attention.strips(across, down)

    def compute(self, x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """What the block makes of x, an image or a part of one, with the strips beside it."""
        attention_weights, feedforward_weights = self._weights()
        weights = (*self.attention_norm.values(), *attention_weights)
        x = self._add_attention(x, _normal_attention, (x, rows, columns), weights)
        return self._feed_forward(x, feedforward_weights)

    def _attend(self, x: Tensor, weights: tuple[Tensor, ...]) -> Tensor:
        normal = self.attention_norm(x)
        if not isinstance(self.attention, SMAM):
            return x + self.attention(normal)
        strips = self.attention.strips(*SMAM.means(normal))
        return self._add_attention(x, SMAM.compute, (normal, *strips), weights)

    def _add_attention(
        self,
        x: Tensor,
        function: Callable[..., Tensor],
        images: tuple[Tensor, ...],
        weights: tuple[Tensor, ...],
    ) -> Tensor:
        channels = 3 * self.attention.channels
        return add_in_windows(x, function, images, weights, radius=SMAM.radius, channels=channels)

    def _feed_forward(self, x: Tensor, weights: tuple[Tensor, ...]) -> Tensor:
        channels = self.feedforward.project_in.out_channels
        return add_in_windows(x, _feed_forward, [x], weights, radius=FFN.radius, channels=channels)

    def _weights(self) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        # what is compiled or traced takes the weights in another form than a GPU's kernels
        recorded = torch.compiler.is_compiling() or torch.jit.is_tracing()
        kept = None if recorded or torch.is_grad_enabled() else self._kept
        return kept or self._prepare()

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"_kept": None, "_keepers": 0}  # a copy keeps nothing

    @contextmanager
    def weights_kept(self) -> Iterator[None]:
        """As `RestorationNetwork.weights_kept`, of this block alone."""
        with KEEPING:
            if not self._keepers:
                with torch.no_grad():
                    self._kept = self._prepare()
            self._keepers += 1
        try:
            yield
        finally:
            with KEEPING:
                self._keepers -= 1
                if not self._keepers:
                    self._kept = None

    def _prepare(self) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """The weights that `SMAM.compute` and `_feed_forward` take."""
        attention = self.attention.prepare() if isinstance(self.attention, SMAM) else ()
        return attention, (*self.feedforward_norm.values(), *self.feedforward.prepare())


def _normal_attention(
    x: Tensor,
    rows: Tensor,
    columns: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    *weights: Tensor,
) -> Tensor:
    return SMAM.compute(normalise(x, norm_weight, norm_bias), rows, columns, *weights)


def _feed_forward(x: Tensor, norm_weight: Tensor, norm_bias: Tensor, *weights: Tensor) -> Tensor:
    return FFN.compute(normalise(x, norm_weight, norm_bias), *weights)


class Downsample(nn.Module):
    """3x3 convolution C -> D/4, then pixel unshuffle: (B, C, H, W) -> (B, D, H/2, W/2)."""

    def __init__(self, channels: int, channels_out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels_out // 4, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return channels_last(F.pixel_unshuffle(self.conv(x), 2))


class Upsample(nn.Module):
    """3x3 convolution C -> 4D, then pixel shuffle: (B, C, H, W) -> (B, D, 2H, 2W)."""

    radius = 1  # of the input's pixels that one output depends on

    def __init__(self, channels: int, channels_out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 4 * channels_out, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return channels_last(F.pixel_shuffle(self.conv(x), 2))

    def beside(self, x: Tensor, skip: Tensor) -> Tensor:
        """[forward(x), skip] of (B, D + E, 2H, 2W); the former in bands if `is_large`."""
        if not is_large(skip):
            return torch.cat([self(x), skip], dim=1)
        batch, channels, height, width = skip.shape
        own = self.conv.out_channels // 4
        joined = skip.new_empty(batch, height, width, own + channels).permute(0, 3, 1, 2)
        joined[:, own:] = skip
        for read, write, inner in bands(x, self.conv.out_channels, self.radius):
            part = self.conv(x[:, :, read])[:, :, inner]
            rows = slice(2 * write.start, 2 * write.stop)
            joined[:, :own, rows] = F.pixel_shuffle(part, 2)
        return joined


def channels_last(x: Tensor) -> Tensor:
    """Channels last in memory: a GPU leaves shuffled pixels in planes, and sums would follow."""
    return x.contiguous(memory_format=torch.channels_last)
