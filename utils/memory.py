"""The memory that is left to this process: the machine's, or its container's or job's."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import psutil

GROUPS = Path("/proc/self/cgroup")  # Linux: the control groups of this process
ROOT = Path("/sys/fs/cgroup")


class Names(NamedTuple):
    """What a version of control groups calls its files, and the cache that it can drop."""

    limit: str
    usage: str
    droppable: str


FIRST = Names("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
SECOND = Names("memory.max", "memory.current", "inactive_file")


def available_memory() -> int:
    """Bytes that could still be allocated without swapping, and without being killed for it."""
    return max(0, min([psutil.virtual_memory().available, *_left_in_groups()]))


def _left_in_groups() -> Iterator[int]:
    """Bytes up to the limit of each control group that has one; none outside Linux."""
    try:
        lines = GROUPS.read_text(errors="surrogateescape").splitlines()
    except OSError:
        return
    for line in lines:
        _, _, found = line.partition(":")
        controllers, _, path = found.partition(":")
        if controllers and "memory" not in controllers.split(","):
            continue
        top, names = (ROOT / "memory", FIRST) if controllers else (ROOT, SECOND)
        group = top / path.lstrip("/")  # a container may see its own group as the top
        for folder in (group, *group.parents):
            try:
                limit = int((folder / names.limit).read_text())
                usage = int((folder / names.usage).read_text())
                statistics = (folder / "memory.stat").read_text().split()
                cached = dict(zip(statistics[::2], statistics[1::2], strict=False))
                droppable = int(cached.get(names.droppable, 0))
            except (OSError, ValueError):  # no such group here, or no limit ("max")
                continue
            yield limit - usage + droppable
