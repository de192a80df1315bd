"""What a user did wrong, told in one line.

`UserError` says the value, what was expected and what to do; `run` turns it into that line on
standard error and exit code 2. Anything else keeps its traceback: it is a bug.
"""

import sys
import warnings
from collections.abc import Callable

from tqdm import tqdm


class UserError(ValueError):
    """A mistake in what the user gave (a flag, a path, a file)."""


def run(main: Callable[[], int | None]) -> None:
    """Run a script's `main` and exit with its code, 2 after a `UserError`, 130 after Ctrl-C.

    Warnings are shown as one line as well.
    """
    warnings.showwarning = _show_warning
    try:
        code = main()
    except UserError as error:
        # a data loader's worker hands its error on with the traceback before the message
        sys.exit(_last_words(str(error).rsplit("UserError: ", 1)[-1], 2))
    except KeyboardInterrupt:
        sys.exit(_last_words("interrupted", 130))
    sys.exit(code or 0)


def _show_warning(message: Warning | str, *place: object) -> None:
    tqdm.write(f"warning: {message}", file=sys.stderr)  # above a progress bar, if there is one


def _last_words(message: str, code: int) -> int:
    tqdm.write(f"error: {' '.join(message.split())}", file=sys.stderr)
    return code
