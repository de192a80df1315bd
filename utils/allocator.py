"""Memory that is freed stays with the process, for the next step or image to take.

glibc gives large blocks back to the system at once, and each page of the next block then costs a
fault: a tenth of the time of a step or image, or more (PERFORMANCE.md). Other C libraries are left
as they are, and so is one that the environment has set already.
"""

import ctypes
import os
import sys

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
KEPT = 256 * 2**20  # bytes at the end of the heap that are not given back
LARGEST = 32 * 2**20  # of a block within the heap, the most that glibc takes


def keep_freed_memory() -> None:
    """For the whole process, from now on."""
    if sys.platform != "linux" or {"MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES"} & os.environ.keys():
        return
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option:
        set_option(MMAP_THRESHOLD, LARGEST)
        set_option(TRIM_THRESHOLD, KEPT)
