"""A folder is written beside its place, and put there when all of it is there."""

import contextlib
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from utils.files import check_writable, write_error
from utils.locks import HOLDER, LOCK, hold_folder

ENDING = ".unfinished"  # of the folder's name until then


@contextlib.contextmanager
def replaced_when_whole(folder: Path, last: Sequence[str], flag: str) -> Iterator[Path]:
    """A folder to write to, whose files replace those in `folder` when the block ends well.

    If it does not, `folder` is as it was, and what was written stays beside it until the next time.
    Other files in `folder` stay.

    Args:
        last: names of the files that are put there last, in this order.
        flag: that says where, for the error.

    Raises:
        UserError: either cannot be written to, or another process is writing the same.
    """
    folder = folder.resolve()  # a link may lead to another disk, where a file cannot be moved to
    unfinished = folder.with_name(folder.name + ENDING)
    check_writable(folder)
    try:
        with hold_folder(unfinished, f"writing there; wait for its end, or give another {flag}"):
            _remove(unfinished)
            yield unfinished
            _move(unfinished, folder, last)
    finally:
        for path in (unfinished, folder):
            with contextlib.suppress(OSError):  # not empty
                path.rmdir()


def _move(unfinished: Path, folder: Path, last: Sequence[str]) -> None:
    paths = [path for path in sorted(unfinished.rglob("*")) if path.is_file()]
    paths.sort(key=lambda path: last.index(path.name) if path.name in last else -1)
    for path in paths:
        if path.name in (HOLDER, LOCK):
            continue
        place = folder / path.relative_to(unfinished)
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            path.replace(place)
        except OSError as error:
            raise write_error(place, error) from error
    _remove(unfinished)


def _remove(unfinished: Path) -> None:
    for path in unfinished.iterdir():
        if path.name in (HOLDER, LOCK):
            continue
        try:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        except OSError as error:
            raise write_error(path, error) from error
