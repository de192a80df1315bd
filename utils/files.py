"""Writing files whole or not at all, and saying what keeps them from being written."""

import contextlib
import errno
import os
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import IO

from utils.errors import UserError
from utils.printable import printable

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # disk, quota, and limit on a file's size
LONGEST_NAME = 255  # bytes
GIVE_ANOTHER = "give a folder you may write to"


def write_whole(
    path: Path,
    write: Callable[[IO[bytes]], object],
    durable: bool = False,
    before_rename: Callable[[], object] | None = None,
) -> None:
    """Let `write` fill a temporary file beside `path`, then rename it to `path`.

    Args:
        durable: make sure that it is on the disk, and stays there after a power cut.
        before_rename: called when the temporary file is whole.

    Raises:
        UserError: the folder cannot be made or written to, or the disk is full.
    """
    temporary = _temporary_path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            write(file)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        if before_rename:
            before_rename()
        temporary.replace(path)
        if durable:
            sync_folder(path.parent)
    except OSError as error:
        raise write_error(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def _temporary_path(path: Path) -> Path:
    """Where to write a file at first: beside `path`, by a name that file systems take."""
    ending = f".{uuid.uuid4().hex}.part"
    start = f".{path.name}".encode(errors="ignore")[: LONGEST_NAME - len(ending)]
    return path.with_name(start.decode(errors="ignore") + ending)


def sync_folder(folder: Path) -> None:
    """Make sure that the names in a folder are on the disk, where the system can."""
    with contextlib.suppress(OSError):  # Windows and some network file systems cannot
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_error(path: Path, error: OSError) -> UserError:
    """What kept a file from being written, and what to do about it."""
    full = error.errno in FULL
    remedy = "make room, or give a folder on another disk" if full else GIVE_ANOTHER
    return UserError(f"{printable(path)}: cannot be written ({error.strerror or error}); {remedy}")


def check_writable(folder: Path) -> None:
    """Make sure, before any work is done, that `folder` can be written to.

    Raises:
        UserError: it cannot.
    """
    probe = folder / f".writable.{uuid.uuid4().hex}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except FileExistsError as error:
        raise UserError(f"{printable(folder)}: a file; give the path of a folder") from error
    except OSError as error:
        raise write_error(folder, error) from error
