"""CPU seconds by process, and the share of the machine that others used meanwhile."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

TICK_S = 1 / os.sysconf("SC_CLK_TCK")


def cpu_s(pid: int) -> float:
    """CPU seconds (user and system, all threads) that a process has used; 0 when it is gone."""
    total = 0
    try:
        for task in Path(f"/proc/{pid}/task").iterdir():
            total += int((task / "schedstat").read_text().split()[0])
    except OSError:
        return 0.0
    return total / 1e9


def waited_s(pid: int) -> float:
    """Seconds for which a process's main thread could have run, but had no core."""
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9
    except OSError:
        return 0.0


def tree_cpu_s(pid: int) -> float:
    """CPU seconds of a process, its living children, and the children it has reaped (Postgres)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return 0.0
    total = sum(int(fields[at]) for at in (11, 12, 13, 14)) * TICK_S
    return total + sum(cpu_s(child) for child in _children(pid))


def _children(pid: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            except OSError:
                continue
            if parent == pid:
                found.append(int(entry.name))
    return found


def machine_busy_s() -> float:
    """CPU seconds that all cores were busy since boot."""
    fields = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return (sum(fields) - fields[3] - fields[4]) * TICK_S


@dataclass
class Usage:
    """CPU seconds by part over a span, and what others used of the machine (0 to 1).

    `waits`: seconds for which a part's main thread was ready to run and had no core.
    """

    parts: dict[str, float]
    wall_s: float
    others_share: float
    waits: dict[str, float]

    def said(self) -> str:
        """Return each part's cores, and the share of the time that it waited for one."""
        return ", ".join(
            f"{name} {spent / self.wall_s:.2f} (waited {self.waits[name] / self.wall_s:.2f})"
            for name, spent in self.parts.items()
        )


class Meter:
    """Measures the CPU of named processes from `start` to `stop`."""

    def __init__(self, pids: dict[str, int]) -> None:
        self._pids = pids | {"client": os.getpid()}

    def _read(self) -> dict[str, float]:
        return {
            name: tree_cpu_s(pid) if name == "postgres" else cpu_s(pid)
            for name, pid in self._pids.items()
        }

    def start(self) -> None:
        self._at, self._busy, self._before = time.monotonic(), machine_busy_s(), self._read()
        self._waited = {name: waited_s(pid) for name, pid in self._pids.items()}

    def stop(self) -> Usage:
        wall = time.monotonic() - self._at
        after, busy = self._read(), machine_busy_s() - self._busy
        parts = {name: max(0.0, after[name] - self._before[name]) for name in after}
        others = max(0.0, busy - sum(parts.values())) / (wall * (os.cpu_count() or 1))
        waits = {name: waited_s(pid) - self._waited[name] for name, pid in self._pids.items()}
        return Usage(parts, wall, others, waits)


def percentiles(values: list[float], *wanted: float) -> list[float]:
    """The values at these shares (0 to 1), nan where there are none."""
    ordered = sorted(values)
    if not ordered:
        return [float("nan")] * len(wanted)
    return [ordered[min(len(ordered) - 1, int(len(ordered) * share))] for share in wanted]
