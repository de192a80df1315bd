"""Images' sizes, and which of them cannot be read, found before any work is done with them."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

from data.pairing import Pair
from utils.errors import UserError
from utils.image_io import MAX_PIXELS, read_image, read_size

NUM_THREADS = 8
NUM_TOLD = 20  # images, each in a line of its own


class Found(NamedTuple):
    """(width, height) of each image that can be read, and why the others cannot."""

    sizes: dict[Path, tuple[int, int]]
    damaged: dict[Path, str]

    def whole(self, pairs: Sequence[Pair]) -> list[Pair]:
        """The pairs whose images can be read."""
        return [pair for pair in pairs if self.damaged.keys().isdisjoint(pair)]


def find_damage(pairs: Sequence[Pair], max_pixels: int, decoded: bool = False) -> Found:
    """Look at the images' headers, or (`decoded`) at all of their pixels."""
    paths = list(dict.fromkeys(path for pair in pairs for path in pair if path))
    read = partial(_read_size, max_pixels=max_pixels, decoded=decoded)
    with warnings.catch_warnings(), ThreadPoolExecutor(NUM_THREADS) as pool:
        warnings.simplefilter("ignore")  # training warns of grey images and the like
        found = dict(zip(paths, pool.map(read, paths), strict=True))
    return Found(
        {path: size for path, size in found.items() if not isinstance(size, str)},
        {path: reason for path, reason in found.items() if isinstance(reason, str)},
    )


def read_sizes(
    pairs: Sequence[Pair], max_pixels: int = MAX_PIXELS, decoded: bool = False
) -> dict[Path, tuple[int, int]]:
    """(width, height) of each image, from its header, or (`decoded`) from all of its pixels.

    Raises:
        UserError: a file is not an image, or has more pixels than allowed; or cannot be decoded.
    """
    found = find_damage(pairs, max_pixels, decoded)
    for reason in found.damaged.values():
        raise UserError(reason)
    return found.sizes


def refuse_damage(damaged: Mapping[Path, str]) -> None:
    """Raise `UserError` if there are damaged images; it names the first and counts the others."""
    reasons = list(damaged.values())
    if reasons:
        more = f" (and {len(reasons) - 1} more)" if len(reasons) > 1 else ""
        raise UserError(f"--strict_data: {reasons[0]}{more}")


def report_damage(damaged: Mapping[Path, str], what_happens: str) -> None:
    """One warning for each image, of what happens."""
    reasons = list(damaged.values())
    for reason in reasons[:NUM_TOLD]:
        warnings.warn(f"{reason}; {what_happens}", stacklevel=2)
    if len(reasons) > NUM_TOLD:
        warnings.warn(f"so it is for {len(reasons) - NUM_TOLD} more images", stacklevel=2)


def _read_size(path: Path, max_pixels: int, decoded: bool) -> tuple[int, int] | str:
    read: Callable[..., object] = read_image if decoded else read_size
    try:
        found = read(path, max_pixels)
    except UserError as error:
        return str(error)
    return found.shape[1::-1] if decoded else found
