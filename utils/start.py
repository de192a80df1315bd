"""What has to be settled before libraries are imported, which takes seconds; import it first.

Streams that can be written to, freed memory that is kept, and Ctrl-C that ends at once and in one
line, where there is nothing to lose yet. A script's `run` has Ctrl-C raise KeyboardInterrupt again.
To be imported by what is started alone, not by what imports that.
"""

import os
import signal
import sys

from utils.allocator import keep_freed_memory
from utils.streams import prepare_streams


def end(*_: object) -> None:
    """End the process: an exception might be caught by whatever is being imported."""
    print("error: interrupted", file=sys.stderr, flush=True)
    os._exit(130)


if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
    signal.signal(signal.SIGINT, end)
prepare_streams()
keep_freed_memory()
