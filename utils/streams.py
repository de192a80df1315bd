"""Standard streams that do not end the work: closed ones, full disks, readers that have gone."""

import os
import sys
from typing import Any, TextIO

MODES = {"stdin": "r", "stdout": "w", "stderr": "w"}


class Output:
    """A stream to write to; once that fails, all goes nowhere.

    If it is standard output, one line on standard error says so.
    """

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
        if self is sys.stdout:
            print(
                f"warning: standard output cannot be written ({error.strerror}); going on without",
                file=sys.stderr,
            )


def prepare_streams() -> None:
    """Make standard output and error an `Output` that takes any file's name; open what is closed.

    A closed stream reads as empty, and what is written to it is lost. To be done before files are
    opened, which would get the number of a closed stream, and with it what libraries write there.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            free = os.open(os.devnull, os.O_RDWR)  # the lowest number that is free, this one
            os.set_inheritable(free, True)
    for name, mode in MODES.items():
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115, PTH123, for all the run
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if not isinstance(stream, Output):
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="backslashreplace")
            setattr(sys, name, Output(stream))
