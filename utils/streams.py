"""Standard streams that do not end the work: closed ones, full disks, readers that have gone."""

import os
import sys
from typing import Any, TextIO

MODES = {"stdin": "r", "stdout": "w", "stderr": "w"}


class Output:
    """A stream to write to; once that fails, all goes nowhere, after one line on standard error."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError as error:
            self._give_up(error)
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)
        print(
            f"warning: standard output cannot be written ({error.strerror}); going on without it",
            file=sys.stderr,
        )


def prepare_streams() -> None:
    """Make standard output an `Output` that takes any file's name, and open what is closed.

    A closed stream reads as empty, and what is written to it is lost.
    """
    for name, mode in MODES.items():
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115, PTH123, for all the run
    if not isinstance(sys.stdout, Output):
        if hasattr(sys.stdout, "reconfigure"):
            sys.stdout.reconfigure(errors="backslashreplace")
        sys.stdout = Output(sys.stdout)
