"""Ctrl-C while a script's libraries are imported ends in one line; to be imported before them."""

import sys
from types import TracebackType

_show = sys.excepthook


def show(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """What `sys.excepthook` does, but for Ctrl-C."""
    if issubclass(kind, KeyboardInterrupt):
        print("error: interrupted", file=sys.stderr)
    else:
        _show(kind, error, trace)


sys.excepthook = show
