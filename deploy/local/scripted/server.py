"""A scripted OpenAI-compatible server, for tests, benches and a first look without a model.

`python -m turnstream.deploy.local.scripted.server --port 8000`, or `async with ScriptedServer()`.
Serves `POST /v1/chat/completions` (stream or not), `GET /v1/models`, `/health`, and `/metrics`
under vLLM's names. Directives in the model's name or the last user message say what it answers: see
`script.py`. It refuses a history that vLLM or OpenAI would refuse.

An asyncio protocol of its own, because it stands in benches at 10,000 tokens a second, where its
CPU must be small.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
from collections import Counter, deque
from typing import TYPE_CHECKING, Self

from turnstream.deploy.local.scripted.connection import Connection
from turnstream.deploy.local.scripted.stream import Wheel

if TYPE_CHECKING:
    from types import TracebackType

    from turnstream.deploy.local.scripted.answer import Request

REQUESTS_KEPT = 1000


class ScriptedServer:
    """The server; `slots` requests run at once (0: all), the rest wait as vLLM's queue does.

    For tests: `requests` holds the last 1,000 bodies, `aborted` counts answers whose client left.
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        model: str = "scripted",
        api_key: str = "",
        slots: int = 0,
    ) -> None:
        self.host, self.port = host, port
        self.model = model
        self.api_key = api_key
        self.slots = slots
        self.requests: deque[Request] = deque(maxlen=REQUESTS_KEPT)
        self.running: set[Connection] = set()
        self.waiting: deque[Connection] = deque()
        self.connections: set[Connection] = set()
        self.served = 0
        self.aborted = 0
        self.prompt_tokens = 0
        self.generation_tokens = 0
        self.finished: Counter[str] = Counter()
        self.failures: Counter[str] = Counter()  # how often a message was answered by an error
        self.wheel: Wheel
        self._server: asyncio.Server

    @property
    def url(self) -> str:
        """Return the base URL for clients, with `/v1`."""
        return f"http://{self.host}:{self.port}/v1"

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self.wheel = Wheel()
        self._server = await loop.create_server(
            lambda: Connection(self), self.host, self.port, backlog=1024
        )
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.wheel.close()
        self._server.close()
        for connection in tuple(self.connections):
            connection.cut()
        await self._server.wait_closed()

    def begin(self, connection: Connection) -> None:
        """Give the connection a slot, or let it wait for one."""
        if self.slots and len(self.running) >= self.slots:
            self.waiting.append(connection)
            return
        self.running.add(connection)
        connection.run()

    def leave(self, connection: Connection, *, answered: bool) -> None:
        """Take the connection's slot back and give it to the next."""
        if connection in self.running:
            self.running.discard(connection)
        elif connection in self.waiting:
            self.waiting.remove(connection)
        else:
            return
        self.aborted += not answered
        if self.waiting and (not self.slots or len(self.running) < self.slots):
            following = self.waiting.popleft()
            self.running.add(following)
            following.run()


async def serve(host: str, port: int, slots: int) -> None:
    """Serve until SIGINT or SIGTERM; prints the URL when it is ready."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with ScriptedServer(host=host, port=port, slots=slots) as server:
        print(server.url, flush=True)  # noqa: T201  one line for the program that started it
        await stop.wait()


def main() -> None:
    """Run the server as a program."""
    import uvloop  # noqa: PLC0415  only the program needs it

    parser = argparse.ArgumentParser(description="A scripted OpenAI-compatible server.")
    parser.add_argument("--host", default="127.0.0.1", help="address to bind")
    parser.add_argument("--port", type=int, default=8000, help="port; 0 takes a free one")
    parser.add_argument("--slots", type=int, default=0, help="requests at once; 0: no limit")
    given = parser.parse_args()
    uvloop.run(serve(given.host, given.port, given.slots))


if __name__ == "__main__":
    main()
