"""What the scripts ask of every network, whoever designed it."""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from net.windows import WINDOW_BYTES

MAX_GRAPHS = 64  # of one network's blocks: shapes and modes, of which torch.compile expects 8


class RestorationNetwork(nn.Module):
    """Degraded image in, restored image out.

    Constructor arguments are keywords of plain values (they go into checkpoints); trainable
    networks have `width` (channels at full resolution) and `expansion` (of the feed-forward).

    configurations: constructor arguments by the name of a size; `paper` is the published one.
    choices: further constructor arguments, each with its values, the published one first.
    trainable: whether train.py can train it.
    can_be_named: whether `named` may say what is wrong; a network that cannot is always blind.
    gives_scores: whether `forward` has `with_scores`, to tell what the network took to be wrong.
    size_multiple: H and W must be multiples of it (padding is the caller's, `utils.inference`).
    block: class of the modules that repeat and are compiled one by one, of trainable networks.
    degradation_rows: ends of the names of the weights that have a row for each degradation.
    unused_weights: beginnings of the names in a published checkpoint that restoring never reads.
    inference_bytes_per_pixel: of peak memory without gradients, in float32, rounded up.
    windowed_bytes_per_pixel: the same on the CPU, if blocks run in windows there (`net.windows`),
        beside about `windows_bytes`, whatever the image (`paper`: half as much again).
    streamed_bytes_per_pixel: the same, beside 1.5 times `windows_bytes`, if `forward` has a way
        (`streamed`, `on_region`) that takes less memory and more time.
    origin: what its checkpoint said of the training, but for the weights (plain values); or None.
    """

    configurations: ClassVar[Mapping[str, Mapping[str, Any]]]
    choices: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    trainable: ClassVar[bool] = True
    can_be_named: bool = False
    gives_scores: ClassVar[bool] = False
    size_multiple: ClassVar[int] = 8
    block: ClassVar[type[nn.Module]]
    degradation_rows: ClassVar[tuple[str, ...]] = ()
    unused_weights: ClassVar[tuple[str, ...]] = ()
    inference_bytes_per_pixel: int
    windowed_bytes_per_pixel: int | None = None
    streamed_bytes_per_pixel: int | None = None
    windows_bytes: ClassVar[int] = 32 * WINDOW_BYTES
    origin: dict[str, Any] | None = None

    @classmethod
    def published_arguments(cls, names: Collection[str]) -> dict[str, Any]:
        """Constructor arguments for a published checkpoint that holds weights by these names."""
        return dict(cls.configurations["paper"])

    def check_size(self, image: Tensor) -> None:
        """Raise `ValueError` if it is not (B, 3, H, W), H and W multiples of `size_multiple`."""
        if image.ndim != 4 or image.shape[1] != 3:
            raise ValueError(f"image of shape {tuple(image.shape)}: expected (B, 3, H, W)")
        height, width = image.shape[2:]
        if height % self.size_multiple or width % self.size_multiple:
            raise ValueError(
                f"image of {height} x {width} pixels: both sides must be multiples of "
                f"{self.size_multiple}; pad it first (utils.inference.restore does)"
            )

    @contextmanager
    def weights_kept(self) -> Iterator[None]:
        """Within, what a forward pass makes of the weights alone is made once.

        For restoring many images or tiles: the weights must not change meanwhile, nor learn.
        """
        yield

    def compile_blocks(self, backend: str = "inductor") -> None:
        """Let torch.compile make one graph for all blocks of a shape, in place.

        Fewer graphs are compiled than in the network as a whole (PERFORMANCE.md); what lies between
        blocks stays eager.
        """
        torch._dynamo.config.recompile_limit = MAX_GRAPHS
        for module in self.modules():
            if isinstance(module, self.block):
                module.compile(backend=backend, dynamic=False)
