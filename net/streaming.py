"""The level at full resolution without its maps: parts of them are made where they are needed.

Maps at full resolution take most of the memory (`small`: 454 bytes a pixel with them, 131 without).
What happens there is local, but for the strip means that each attention takes from the whole image.
So these are gathered first, part by part, and every part of a map is made anew from the image, with
the margin that depends on it, whenever it is read: in one pass for each block, and one at the end.
The result is that of the maps held whole, up to rounding; it takes less memory and more time
(PERFORMANCE.md).

Shapes: B batch, C channels, H x W pixels.
"""

import itertools
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from net.attention import SMAM
from net.feedforward import FFN
from net.layers import TransformerBlock, Upsample
from net.windows import spans, with_margin

PART = 512  # pixels a side, at most: larger ones took more memory and as long (PERFORMANCE.md)

Region = tuple[slice, slice]  # rows and columns


def regions(size: tuple[int, int]) -> list[Region]:
    """Equal regions that cover a map; their sides are even."""

    def halves(side: int) -> list[slice]:
        return [span.write for span in spans(side // 2, PART // 2)]

    return [
        (slice(2 * rows.start, 2 * rows.stop), slice(2 * columns.start, 2 * columns.stop))
        for rows, columns in itertools.product(*map(halves, size))
    ]


class Streamed:
    """A map (B, C, H, W) that is made region by region.

    Args:
        size: H and W, multiples of 8.
        make: gives the region (B, C, rows, columns).
        on_read: called after each region that is read for strips or to be held.
    """

    def __init__(
        self, size: tuple[int, int], make: Callable[[Region], Tensor], on_read: Callable[[], None]
    ) -> None:
        self.size = size
        self.make = make
        self.on_read = on_read

    @classmethod
    def of(
        cls,
        image: Tensor,
        layer: Callable[[Tensor], Tensor],
        radius: int,
        on_read: Callable[[], None],
    ) -> "Streamed":
        """The map that a layer makes of an image that is held; as `_then`."""
        source = cls(image.shape[2:], lambda region: image[:, :, *region], on_read)
        return source._then(lambda x, _: layer(x), radius)

    def through(self, block: TransformerBlock) -> "Streamed":
        """The map that a transformer block makes of this one, which is read once for its strips."""
        parts = ((region, self.make(region)) for region in self._regions())
        strips = block.strips(self.size, parts)

        def function(x: Tensor, region: Region) -> Tensor:
            (across, down), (rows, columns) = strips, region
            return block.compute(x, across[:, :, rows], down[:, :, :, columns])

        return self._then(function, SMAM.radius + FFN.radius)

    def joined_with(self, x: Tensor, upsample: Upsample) -> "Streamed":
        """[upsample(x), this map], x (B, *, H/2, W/2): as `Upsample.beside`."""

        def make(region: Region) -> Tensor:
            halves = [slice(side.start // 2, -(-side.stop // 2)) for side in region]
            sides = zip(halves, x.shape[2:], strict=True)
            outer = [with_margin(side, upsample.radius, length).read for side, length in sides]
            inner = (
                slice(side.start - 2 * read.start, side.stop - 2 * read.start)
                for side, read in zip(region, outer, strict=True)
            )
            own = upsample(x[:, :, *outer])[:, :, *inner]
            return torch.cat([own, self.make(region)], dim=1)

        return Streamed(self.size, make, self.on_read)

    def held(self, layer: Callable[[Tensor], Tensor], radius: int, scale: int = 1) -> Tensor:
        """layer(map) as a whole, (B, *, H/scale, W/scale); `radius` is a multiple of `scale`."""
        whole = None
        for region in self._regions():
            outer, inner = self._around(region, radius)
            part = layer(self.make(outer))
            if whole is None:
                height, width = (side // scale for side in self.size)
                whole = part.new_empty(len(part), height, width, part.shape[1])
                whole = whole.permute(0, 3, 1, 2)
            target, inner = (
                [slice(side.start // scale, side.stop // scale) for side in sides]
                for sides in (region, inner)
            )
            whole[:, :, *target] = part[:, :, *inner]
        return whole

    def _then(self, function: Callable[[Tensor, Region], Tensor], radius: int) -> "Streamed":
        """The map of a local function of this one.

        It is called with a region and where that lies. An output pixel depends on what is within
        `radius`.
        """

        def make(region: Region) -> Tensor:
            outer, inner = self._around(region, radius)
            return function(self.make(outer), outer)[:, :, *inner]

        return Streamed(self.size, make, self.on_read)

    def _regions(self) -> Iterator[Region]:
        for region in regions(self.size):
            yield region
            self.on_read()

    def _around(self, region: Region, radius: int) -> tuple[Region, Region]:
        """The region with its margin, and where it lies in that."""
        rows, columns = (
            with_margin(side, radius, length)
            for side, length in zip(region, self.size, strict=True)
        )
        return (rows.read, columns.read), (rows.inner, columns.inner)
