"""How much memory this process may use: the machine's, or less where a container sets a limit."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath

_UNKNOWN = 4 * 2**30
"""Assumed where the system does not say how much memory it has."""


def host_memory(root: Path = Path("/")) -> int:
    """Bytes of memory that this process may use, 1 or more.

    This is the smallest of the physical memory and the limits of the process's control groups and of their parents:
    `memory.max` (version 2) and `memory.limit_in_bytes` (version 1). Systems without control groups (macOS) have
    physical memory alone; 4 GiB are assumed where even that is unknown.

    Args:
        root: The folder that holds `proc` and `sys`; tests give another one.
    """
    return min([_physical_memory(), *_cgroup_limits(root)])


def _physical_memory() -> int:
    try:
        size = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return _UNKNOWN
    return size if size > 0 else _UNKNOWN


def _cgroup_limits(root: Path) -> Iterator[int]:
    """The limits in bytes; "max" and files that are absent are left out."""
    for folder, name in _limit_files(root):
        with suppress(OSError, ValueError):
            limit = int((folder / name).read_text(encoding="ascii"))
            if limit > 0:
                yield limit


def _limit_files(root: Path) -> Iterator[tuple[Path, str]]:
    """Folder and name of every file that may hold a limit.

    A line of `proc/self/cgroup` reads `number:controllers:/path`; version 2 has no controllers. In a container the path
    may not exist below the mount point, which then is the container's own group: the parents lead to it.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return
    for line in lines:
        controllers, _, path = line.partition(":")[2].partition(":")
        if controllers == "":
            mount, name = root / "sys/fs/cgroup", "memory.max"
        elif "memory" in controllers.split(","):
            mount, name = root / "sys/fs/cgroup/memory", "memory.limit_in_bytes"
        else:
            continue
        group = PurePosixPath(path.lstrip("/"))
        for each in (group, *group.parents):
            if ".." not in each.parts:
                yield mount / each, name
