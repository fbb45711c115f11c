"""A Kafka and a Postgres of a test's own, to be ended and started again."""

from __future__ import annotations

import asyncio
import signal
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from turnstream.deploy.local import LocalStack

if TYPE_CHECKING:
    from collections.abc import Callable


class Servers:
    """A local stack, held by a thread of its own: the kernel ends the servers with that thread."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1)
        self.stack = LocalStack(parts=("kafka", "postgres"))

    def open(self) -> None:
        self._thread.submit(self.stack.start).result()

    def close(self) -> None:
        self._thread.submit(self.stack.stop).result()
        self._thread.shutdown()

    async def end(self, name: str, how: signal.Signals) -> None:
        """Send a server a signal and wait until it is gone."""
        self.stack.processes[name].send(how)
        async with asyncio.timeout(60):
            while name in self.stack.processes:
                await asyncio.sleep(0.01)

    async def start(self, name: str) -> None:
        """Start a server again that has ended; returns when it serves."""
        await self._call(self.stack.restart, name)

    async def _call(self, do: Callable[..., Any], *values: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._thread, do, *values)
