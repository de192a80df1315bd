"""Memory that is freed stays with the process, for the next step or image to take.

glibc gives large blocks back to the system at once, and each page of the next block then costs a
fault, all together some hundredths to a third of the time of a step or image (PERFORMANCE.md).
Other C libraries are left as they are, and so is one that the environment has set already.
"""

import ctypes
import os
import sys
from collections.abc import Callable

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
KEPT = 256 * 2**20  # bytes at the end of the heap that are not given back
LARGEST = 32 * 2**20  # of a block within the heap, the most that glibc takes
VARIABLES = {  # that say how much is kept
    "MALLOC_TRIM_THRESHOLD_",
    "MALLOC_TOP_PAD_",
    "MALLOC_MMAP_THRESHOLD_",
    "MALLOC_MMAP_MAX_",
    "GLIBC_TUNABLES",
}


def keep_freed_memory() -> None:
    """For the whole process, from now on."""
    set_option = _of_glibc("mallopt")
    if set_option and not VARIABLES & os.environ.keys():
        set_option(MMAP_THRESHOLD, LARGEST)
        set_option(TRIM_THRESHOLD, KEPT)


def give_back_memory() -> bool:
    """Return to the system what is kept, and say whether anything was."""
    trim = _of_glibc("malloc_trim")
    return bool(trim and trim(0))


def _of_glibc(name: str) -> Callable[..., int] | None:
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
