"""A folder is written beside its place, and put there when all of it is there."""

import contextlib
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from utils.errors import UserError
from utils.files import check_writable, write_error
from utils.locks import HOLDER, LOCK, hold_folder

ENDING = ".unfinished"  # of the folder's name until then


@contextlib.contextmanager
def replaced_when_whole(folder: Path, last: Sequence[str], flag: str) -> Iterator[Path]:
    """A folder to write to, whose files replace those in `folder` when the block ends well.

    If it does not, `folder` is as it was, and what was written stays beside it until the next time.
    Should the replacing itself be cut short, `folder` has none of the files `last`, and the rest is
    beside it. Other files in `folder` stay.

    Args:
        last: names of the files that are taken away first and put there last, in this order.
        flag: that says where, for the error.

    Raises:
        UserError: either cannot be written to, or another process is writing the same.
    """
    folder = folder.resolve()  # a link may lead to another disk, where a file cannot be moved to
    unfinished = folder.with_name(folder.name + ENDING)
    made = [unfinished] if folder.exists() else [unfinished, folder]
    check_writable(folder)
    told = f"writing there; wait for its end, or give another {flag}"
    try:
        with hold_folder(unfinished, told, each_process=True):
            _remove(unfinished)
            yield unfinished
            _move(unfinished, folder, last)
    finally:
        for path in made:
            with contextlib.suppress(OSError):  # not empty
                path.rmdir()


def _move(unfinished: Path, folder: Path, last: Sequence[str]) -> None:
    files = [path for path in sorted(unfinished.rglob("*")) if path.is_file()]
    files.sort(key=lambda path: last.index(path.name) if path.name in last else -1)
    places = {
        path: folder / path.relative_to(unfinished)
        for path in files
        if path.name not in (HOLDER, LOCK)
    }
    for place in places.values():
        if place.is_dir():
            raise UserError(f"{place}: cannot be written, it is a folder; move it elsewhere")
    for name in last:
        (folder / name).unlink(missing_ok=True)
    for path, place in places.items():
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


def finished(paths: Iterable[Path]) -> list[Path]:
    """Those that are in no unfinished folder, sorted."""
    return sorted(path for path in paths if not any(p.name.endswith(ENDING) for p in path.parents))
