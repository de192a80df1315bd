"""One run at a time in a folder.

The lock is the operating system's (by filelock), so a killed run holds none: what a former run has
left behind is recognised as stale by that alone. Beside it lies a note of who holds it.
"""

import contextlib
import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
from filelock import FileLock, Timeout

from utils.devices import is_first_process
from utils.errors import UserError
from utils.files import write_error, write_whole

LOCK, HOLDER = ".lock", ".holder.json"
TRAINING = "training there; wait for its end, stop it, or give another --ckpt_dir"
MOMENT = 10.0  # seconds that the loaders of a killed run may outlive it, and hold its lock


@contextlib.contextmanager
def hold_folder(folder: Path, told: str = TRAINING, each_process: bool = False) -> Iterator[None]:
    """Keep other runs out of `folder`, which is made if it is not there.

    Folders that were made, and not written to, are removed in the end. Processes that a launcher
    started for one run are one holder: the first of them.

    Args:
        told: what another process that holds the folder is doing, and what to do, for the error.
        each_process: is a holder of its own, whoever started it.

    Raises:
        UserError: another run holds the folder, or it cannot be written to.
    """
    if not each_process and not is_first_process():
        yield
        return
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = _acquire(folder, told)
    except OSError as error:
        _remove_empty(made)
        if isinstance(error, FileExistsError):
            raise UserError(f"{folder}: a file; give the path of a folder") from error
        raise write_error(folder, error) from error
    try:
        text = json.dumps(_describe_this_process())
        write_whole(folder / HOLDER, lambda file: file.write(text.encode()))
        yield
    finally:
        for name in (HOLDER, LOCK):
            with contextlib.suppress(OSError):
                (folder / name).unlink()
        lock.release()
        _remove_empty(made)


def _acquire(folder: Path, told: str) -> FileLock:
    lock = FileLock(folder / LOCK)
    deadline = time.monotonic() + MOMENT
    while True:
        try:
            lock.acquire(timeout=0)
            return lock
        except Timeout:
            holder = _read_holder(folder)
            if _lives(holder) or time.monotonic() > deadline:
                raise UserError(f"{folder}: {_describe(holder)} is {told}") from None
            time.sleep(0.1)


def _describe_this_process() -> dict[str, str | int | float]:
    return {
        "host": socket.gethostname(),
        "process": os.getpid(),
        "started": psutil.Process().create_time(),
        "command": " ".join(sys.argv)[:200],
    }


def _read_holder(folder: Path) -> dict[str, str | int | float]:
    """The note that the holder has left; empty while there is none."""
    try:
        holder = json.loads((folder / HOLDER).read_text())
        return {key: holder[key] for key in ("host", "process", "started", "command")}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _lives(holder: dict[str, str | int | float]) -> bool:
    """Whether the process of a note is there still; one on another machine is taken to be."""
    if not holder:
        return False
    if holder["host"] != socket.gethostname():
        return True
    try:
        process = psutil.Process(int(holder["process"]))
        return (
            process.status() != psutil.STATUS_ZOMBIE
            and abs(process.create_time() - float(holder["started"])) < 1
        )
    except (psutil.Error, ValueError, OverflowError):
        return False


def _describe(holder: dict[str, str | int | float]) -> str:
    if not holder:
        return "another run, which has left no note of itself,"
    since = "an unknown time"
    with contextlib.suppress(ValueError, OverflowError, OSError):
        since = time.strftime("%Y-%m-%d %H:%M", time.localtime(float(holder["started"])))
    return (
        f"process {holder['process']} on {holder['host']}, started {since} ({holder['command']}),"
    )


def _remove_empty(folders: list[Path]) -> None:
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.rmdir()
