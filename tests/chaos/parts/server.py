"""A server of the campaign: something to kill, stop, freeze and start again where it was.

Built on the launchers of `deploy/local`: a `Part` says what to run and how to see that it serves.
"""

from __future__ import annotations

import asyncio
import signal
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from turnstream.deploy.local.part import Part, Running
from turnstream.deploy.local.process import kill_group

if TYPE_CHECKING:
    from collections.abc import Callable

_POLL_S = 0.05


class Launcher:
    """The thread that starts the servers: the kernel ends them when it ends (`process.spawn`)."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="launcher")

    async def call(self, function: Callable[..., Any], *arguments: object) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)

    def close(self) -> None:
        self._thread.shutdown(wait=False)


class Server:
    """One part; `start` it before anything else."""

    def __init__(self, part: Part, launcher: Launcher) -> None:
        self.part, self._launcher = part, launcher
        self._running: Running | None = None
        self._ending = False

    @property
    def running(self) -> bool:
        """Whether its process is there (a stopped one is)."""
        return self._running is not None and not self._running.ended()

    @property
    def pid(self) -> int:
        return self._running.identity.pid if self._running else 0

    async def begin(self) -> None:
        """Start the process, if it does not run; one that was asked to end is waited for first."""
        if self._ending:
            await self._gone()
        if not self.running:
            self._running = await self._launcher.call(Running, self.part)

    async def serves(self) -> None:
        """Wait until it serves; raises `PartError` with the end of its log when it never will."""
        assert self._running is not None
        while not await self._launcher.call(self._running.poll):
            await asyncio.sleep(_POLL_S)

    async def start(self) -> None:
        await self.begin()
        await self.serves()

    async def kill(self) -> None:
        """Kill -9, and wait until it has gone."""
        if self._running is not None:
            kill_group(self._running.identity)
            await asyncio.to_thread(self._running.reap)

    async def stop(self) -> None:
        """Ask it to end, in the way in which this kind of server is asked, and wait; then kill."""
        if not self.running:
            return
        self._ending = True
        self._running.identity.send(self.part.stop_signal)
        await self._gone()

    async def _gone(self) -> None:
        try:
            async with asyncio.timeout(self.part.stop_timeout_s):
                while self.running:
                    await asyncio.sleep(_POLL_S)
        except TimeoutError:
            await self.kill()
        self._ending = False

    def freeze(self) -> None:
        self._running.identity.send(signal.SIGSTOP)

    def thaw(self) -> None:
        self._running.identity.send(signal.SIGCONT)
