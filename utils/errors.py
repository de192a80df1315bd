"""What a user did wrong, told in one line.

`UserError` says the value, what was expected and what to do; `run` turns it into that line on
standard error and exit code 2. So it is with a file that the system does not let us use. Anything
else keeps its traceback: it is a bug.
"""

import errno
import os
import sys
import warnings
from collections.abc import Callable

from tqdm import tqdm

from utils.printable import printable

OF_THE_SYSTEM = {  # what keeps a file from being used, and is no bug
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG, errno.ELOOP, errno.EIO),
    *(errno.ENOSPC, errno.EDQUOT, errno.ESTALE),
}
OF_A_STREAM = (errno.EPIPE, errno.ENOSPC)  # whoever read it has ended, or its disk is full
STREAMS = {"stdin": "r", "stdout": "w", "stderr": "w"}


class UserError(ValueError):
    """A mistake in what the user gave (a flag, a path, a file)."""


def run(main: Callable[[], int | None]) -> None:
    """Run a script's `main` and exit with its code, 2 after a `UserError`, 130 after Ctrl-C.

    Warnings are shown as one line as well. Standard output takes any file's name. A stream that is
    closed reads as empty, and what is written to it is lost.
    """
    for name, mode in STREAMS.items():
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115, PTH123, for all the run
    warnings.showwarning = _show_warning
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        code = main()
        sys.stdout.flush()
    except UserError as error:
        # a data loader's worker hands its error on with the traceback before the message
        sys.exit(_last_words(str(error).rsplit("UserError: ", 1)[-1], 2))
    except OSError as error:
        if error.filename is None and error.errno in OF_A_STREAM:
            _drop_output()
            words = f"cannot write ({error.strerror}), most likely to standard output"
            remedy = "send it to a file with room, or to a program that reads to the end"
            sys.exit(_last_words(f"{words}; {remedy}", 2))
        if error.filename is None or error.errno not in OF_THE_SYSTEM:
            raise
        sys.exit(
            _last_words(
                f"{error.filename}: cannot be used ({error.strerror}); give a path that is there "
                "and that you may read and write",
                2,
            )
        )
    except KeyboardInterrupt:
        sys.exit(_last_words("interrupted", 130))
    sys.exit(code or 0)


def _drop_output() -> None:
    """Let what cannot be written go nowhere; Python would try again at its end."""
    try:
        sys.stdout.flush()
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def _show_warning(message: Warning | str, *place: object) -> None:
    # above a progress bar, if there is one
    tqdm.write(f"warning: {_in_one_line(message)}", file=sys.stderr)


def _last_words(message: str, code: int) -> int:
    tqdm.write(f"error: {_in_one_line(message)}", file=sys.stderr)
    return code


def _in_one_line(message: object) -> str:
    return printable(" ".join(str(message).split()))
