"""What a user did wrong, told in one line.

`UserError` says the value, what was expected and what to do; `run` turns it into that line on
standard error and exit code 2. So it is with a file that the system does not let us use. Anything
else keeps its traceback: it is a bug.
"""

import errno
import signal
import sys
import threading
import warnings
from collections.abc import Callable

from tqdm import tqdm

from utils.printable import printable
from utils.streams import prepare_streams

OF_THE_SYSTEM = {  # what keeps a file from being used, and is no bug
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG, errno.ELOOP, errno.EIO),
    *(errno.ENOSPC, errno.EDQUOT, errno.ESTALE),
}
# what PyTorch and its libraries say of memory
NO_ROOM = (
    *("not enough memory", "can't allocate memory", "out of memory", "alloc_failed"),
    *("cannot allocate memory", "insufficient memory"),
)


class UserError(ValueError):
    """A mistake in what the user gave (a flag, a path, a file)."""


def run(main: Callable[[], int | None]) -> None:
    """Run a script's `main` and exit with its code, 2 after a `UserError`, 130 after Ctrl-C.

    Warnings are shown as one line as well.
    """
    prepare_streams()
    interrupted = threading.Event()

    def interrupt(*_: object) -> None:
        interrupted.set()
        raise KeyboardInterrupt

    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
        signal.signal(signal.SIGINT, interrupt)
    warnings.showwarning = _show_warning
    try:
        code = main()
    except Exception as error:
        if interrupted.is_set():  # and a library made another error of it
            sys.exit(_last_words("interrupted", 130))
        sys.exit(_tell(error))
    except KeyboardInterrupt:
        sys.exit(_last_words("interrupted", 130))
    sys.exit(code or 0)


def is_for_want_of_memory(error: BaseException) -> bool:
    """Whether an error, of PyTorch or of Python, says that there is not enough memory."""
    return isinstance(error, MemoryError) or any(words in str(error).lower() for words in NO_ROOM)


def _tell(error: Exception) -> int:
    """The exit code, after a line about what the user can mend; anything else is raised again."""
    if isinstance(error, UserError):
        # a data loader's worker hands its error on with the traceback before the message
        return _last_words(str(error).rsplit("UserError: ", 1)[-1], 2)
    if is_for_want_of_memory(error):
        return _last_words("out of memory; give less, or something smaller", 2)
    number = error.errno if isinstance(error, OSError) else None
    if number == errno.EMFILE:
        return _last_words("too many open files; raise the limit (ulimit -n)", 2)
    if number in OF_THE_SYSTEM and error.filename is not None:
        return _last_words(
            f"{error.filename}: cannot be used ({error.strerror}); give a path that is there and "
            "that you may read and write",
            2,
        )
    raise error


def _show_warning(message: Warning | str, *place: object) -> None:
    # above a progress bar, if there is one
    tqdm.write(f"warning: {_in_one_line(message)}", file=sys.stderr)


def _last_words(message: str, code: int) -> int:
    tqdm.write(f"error: {_in_one_line(message)}", file=sys.stderr)
    return code


def _in_one_line(message: object) -> str:
    return printable(" ".join(str(message).split()))
