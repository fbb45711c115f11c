"""How much memory this process holds, and how much it may.

A worker above its limit hands its turns over and starts anew, before the kernel ends it together
with everything that runs in it.
"""

from __future__ import annotations

from pathlib import Path

import psutil

MIB = 1 << 20
CONTAINER_SHARE = 0.9
"""Of a container's limit, where no limit is set: beyond it the kernel ends the process."""

UNLIMITED_BYTES = 1 << 50
"""Cgroups of version 1 write "no limit" as a number above this."""

_CGROUP_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)


def resident_bytes() -> int:
    """Return the resident memory of this process; 0 where the system does not tell."""
    try:
        return int(psutil.Process().memory_info().rss)
    except psutil.Error:
        return 0


def memory_limit(mib: int, paths: tuple[Path, ...] = _CGROUP_LIMITS) -> int:
    """Return the limit in bytes for a setting in MiB; 0: none.

    With the setting at 0 it is a share of the container's limit, where there is one.
    """
    if mib:
        return mib * MIB
    for path in paths:
        try:
            text = path.read_text().strip()
        except OSError:
            continue
        if text.isdecimal() and int(text) < UNLIMITED_BYTES:
            return int(int(text) * CONTAINER_SHARE)
    return 0
