"""Symbolic links in a data folder must not lead out of it: it may come from anywhere."""

from collections.abc import Iterable
from pathlib import Path

from data.pairing import Pair
from utils.errors import UserError


def check_links(folder: Path, pairs: Iterable[Pair]) -> None:
    """Make sure that all images lie in `folder`, which may be a link itself.

    Raises:
        UserError: a link leads to another place.
    """
    top = folder.resolve()
    inside: dict[Path, bool] = {}  # by the folder of an image
    for path in (path for pair in pairs for path in pair if path):
        parent = path.parent
        if parent not in inside:
            inside[parent] = parent.resolve().is_relative_to(top)
        if inside[parent] and not path.is_symlink():
            continue
        if not path.resolve().is_relative_to(top):
            raise UserError(
                f"{path}: is {path.resolve()} through a symbolic link, outside of {folder}; give "
                "the folder where the images are, or --follow_links if you trust the links"
            )
