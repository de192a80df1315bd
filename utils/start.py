"""What has to be settled before libraries are imported, which takes seconds; import it first.

Streams that can be written to, and Ctrl-C that ends in one line.
"""

import sys
from types import TracebackType

from utils.streams import prepare_streams

_show = sys.excepthook


def show(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """What `sys.excepthook` does, but for Ctrl-C."""
    if issubclass(kind, KeyboardInterrupt):
        print("error: interrupted", file=sys.stderr)
    else:
        _show(kind, error, trace)


sys.excepthook = show
prepare_streams()
