"""One address in front of edges that come and go, as a load balancer is: TCP, nothing more."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from types import TracebackType


class Front:
    """Forwards each connection to the edge that is up; one that finds none waits for the next.

    `opened` counts the connections that reached an edge.
    """

    def __init__(self) -> None:
        self.opened = 0
        self._ports: list[int] = []
        self._moved = asyncio.Event()
        self._serving: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port: int = self._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.ws = f"ws://127.0.0.1:{self.port}"
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._server.close()
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)
        await self._server.wait_closed()

    def to(self, *ports: int) -> None:
        """Send connections that come from now on to these, the first that takes them."""
        self._ports = list(ports)
        self._moved.set()

    def cut(self) -> None:
        """Break every connection off, and let those that come wait."""
        self.to()
        for task in self._serving:
            task.cancel()

    async def _edge(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        while True:
            self._moved.clear()
            for port in self._ports:
                with contextlib.suppress(OSError):
                    return await asyncio.open_connection("127.0.0.1", port)
            await self._moved.wait()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)
        # a cut ends the task without an error: asyncio would log it
        with contextlib.suppress(asyncio.CancelledError), contextlib.closing(writer):
            edge_reader, edge_writer = await self._edge()
            self.opened += 1
            with contextlib.closing(edge_writer):
                ways = (_copy(reader, edge_writer), _copy(edge_reader, writer))
                tasks = {asyncio.ensure_future(way) for way in ways}
                try:
                    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for way in tasks:
                        way.cancel()
                    await asyncio.gather(*tasks, return_exceptions=True)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
