"""Writing checkpoints so that neither a kill, a power cut nor a full disk costs a good one.

A checkpoint is written under a temporary name, synced to the disk and renamed. The one that
`last.ckpt` was stays beside it as `previous.ckpt`, in case the disk damages a file.
"""

import contextlib
import io
import os
import re
import uuid
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from utils.errors import UserError
from utils.files import write_whole

UNFINISHED = re.compile(r"\.(last|best|previous)\.ckpt\.[0-9a-f]{32}\.part")


class WholeCheckpoints(TorchCheckpointIO):
    """Writes checkpoints whole or not at all.

    Args:
        last, previous: the path whose former content is kept, and where.
        keeps_former: whether what is at `last` now is worth it, and not damaged.
    """

    def __init__(self, last: Path, previous: Path, keeps_former: bool = True) -> None:
        self.last = last
        self.previous = previous
        self.keeps_former = keeps_former

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options=None) -> None:
        path = Path(path)
        buffer = io.BytesIO()  # written at once: a full disk is then a plain OSError
        torch.save(checkpoint, buffer)
        try:
            write_whole(
                path,
                lambda file: file.write(buffer.getbuffer()),
                durable=True,
                before_rename=self._keep_former if path == self.last else None,
            )
        except UserError as error:
            if not path.exists():
                raise
            raise UserError(
                f"{error}; the one of before is whole, and --resume goes on from {self.last.name}"
            ) from error

    def _keep_former(self) -> None:
        if self.keeps_former and self.last.exists():
            _link(self.last, self.previous)
        self.keeps_former = True


def remove_unfinished(folder: Path) -> None:
    """Remove what a killed run has left half written in its folder."""
    for path in folder.glob(".*.part"):
        if UNFINISHED.fullmatch(path.name):
            with contextlib.suppress(OSError):
                path.unlink()


def _link(source: Path, target: Path) -> None:
    """Let `target` be what `source` is; at no time is either missing, where links can be made."""
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}.part")
    try:
        os.link(source, temporary)
    except OSError:  # a file system without hard links
        source.replace(target)
    else:
        temporary.replace(target)
        temporary.unlink(missing_ok=True)  # it stays where both are one file already
