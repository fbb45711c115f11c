"""What worker and edge say of themselves in `/metrics`, once a second."""

from __future__ import annotations

import asyncio
import re
import urllib.request
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.bench.stacks import Bench


def metric(port: int, name: str) -> float:
    """Return a metric's value; nan where the process has none of that name."""
    url = f"http://127.0.0.1:{port}/metrics"
    text = urllib.request.urlopen(url, timeout=10).read().decode()
    found = re.search(rf"^{name} (\S+)", text, re.MULTILINE)
    return float(found[1]) if found else float("nan")


class Watching:
    """Keeps the lag of both loops and how many turns the worker ran, seen once a second."""

    def __init__(self, bench: Bench) -> None:
        worker = int(bench.settings["TURNSTREAM_WORKER_HEALTH_PORT"])
        self._asked = {
            "worker's lag (s)": (worker, "turnstream_loop_lag_seconds"),
            "turns that run": (worker, "turnstream_turns_running"),
            "limit": (worker, "turnstream_turns_limit"),
            "edge's lag (s)": (bench.edge_port, "turnstream_edge_loop_lag_seconds"),
        }
        self._seen: dict[str, list[float]] = {name: [] for name in self._asked}

    @asynccontextmanager
    async def going(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self._look())
        try:
            yield
        finally:
            task.cancel()

    async def _look(self) -> None:
        while True:
            for name, asked in self._asked.items():
                with suppress(OSError):
                    self._seen[name].append(await asyncio.to_thread(metric, *asked))
            await asyncio.sleep(1.0)

    def said(self) -> str:
        """Return mean and most of each."""
        return "; ".join(
            f"{name} mean {sum(seen) / len(seen):.3g}, most {max(seen):.3g}"
            for name, seen in self._seen.items()
            if seen
        )
