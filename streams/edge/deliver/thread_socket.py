"""One client's WebSocket on one thread: subscriptions, and commands beside them."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import structlog
from starlette.websockets import WebSocketDisconnect

from turnstream.schemas import unexpected
from turnstream.schemas.errors import CommandError, NotFoundError, TurnstreamError
from turnstream.streams.edge.ask.commands import (
    Commands,
    encode,
    error_message,
    parse_command,
    success,
)
from turnstream.streams.edge.deliver.filters import Filter
from turnstream.streams.edge.follow.cursor import cursor_of
from turnstream.streams.edge.server.connections import INTERNAL_CLOSE_CODE
from turnstream.streams.edge.server.problems import unexpected_text

if TYPE_CHECKING:
    from starlette.websockets import WebSocket

    from turnstream.streams.edge.ask.commands import Command
    from turnstream.streams.edge.deliver.socket import Outlet
    from turnstream.streams.edge.follow.cursor import Cursor
    from turnstream.streams.edge.server.auth import Principal
    from turnstream.streams.edge.server.context import EdgeContext

_log = structlog.get_logger(__name__)
BAD_FRAMES_MAX = 16


@dataclass(slots=True)
class Socket:
    """One client's WebSocket on one thread: its subscriptions, and its commands one by one."""

    edge: EdgeContext
    principal: Principal
    thread_id: str
    key: str
    outlet: Outlet
    websocket: WebSocket
    _subscriptions: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    _starts: dict[str, asyncio.Event] = field(default_factory=dict)
    _count: int = 0
    _bad: int = 0

    async def run(self) -> None:
        """Serve until the client leaves. Always sits in `receive`: unread pongs end a socket."""
        expecting = asyncio.create_task(self._expect_thread())
        working: set[asyncio.Task[None]] = set()
        try:
            while True:
                message = await self.websocket.receive()
                if message["type"] == "websocket.disconnect":
                    return
                if len(working) >= self.edge.sockets.limits.commands_per_socket_max:
                    await self._refuse(None, "too many commands under way")
                    continue
                task = asyncio.create_task(self._take(message))
                working.add(task)
                task.add_done_callback(working.discard)
        except WebSocketDisconnect:
            return
        finally:
            tasks = (expecting, *working, *self._subscriptions.values())
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._subscriptions.clear()  # their stacks refer to this

    async def _expect_thread(self) -> None:
        """Close the socket of a thread that nobody begins.

        The JavaScript SDK opens the socket of a thread that it named itself before its first
        command, and takes 4404 for good. A key begins with the caller's tenant: a foreign thread
        is one that nobody begins.
        """
        try:
            if await self.edge.knows(self.key):
                return
            await asyncio.sleep(self.edge.sockets.limits.unknown_thread_wait_s)
            if not await self.edge.knows(self.key):
                self.outlet.close(4404, "thread_not_found")
        except TurnstreamError as error:  # nobody knows: the socket stays
            _log.warning("unknown whether a thread exists", thread=self.key, code=error.code)
        except Exception as error:  # noqa: BLE001  likewise
            unexpected.note("edge_socket", error, thread=self.key)

    async def _take(self, message: Any) -> None:
        text = message.get("text")
        command_id: int | None = None
        try:
            command = parse_command((text or "").encode("utf-8", "replace"))
            command_id = command.id
            self.edge.count(self.principal)
            answer = await self._answer(command)
        except CommandError as error:
            await self._refuse(command_id, str(error))
            return
        except TurnstreamError as error:
            answer = error_message(command_id, error)
        except Exception as error:  # noqa: BLE001  one frame ends, the socket goes on
            error_id = unexpected.note("edge_frame", error, thread=self.key)
            answer = error_message(command_id, TurnstreamError(unexpected_text(error, error_id)))
        await self._send(answer)
        if command_id is not None and answer["type"] == "success":
            self._begin(answer["result"].get("subscription_id", ""))

    async def _answer(self, command: Command) -> dict[str, Any]:
        if command.method == "subscription.subscribe":
            return success(command.id, {"subscription_id": self._subscribe(command.params)})
        if command.method == "subscription.unsubscribe":
            self._unsubscribe(command.params)
            return success(command.id, {})
        return await Commands(self.edge, self.principal, self.thread_id).run(command)

    def _subscribe(self, params: dict[str, Any]) -> str:
        limit = self.edge.sockets.limits.subscriptions_per_socket_max
        if len(self._subscriptions) >= limit:
            raise CommandError(f"{limit} subscriptions are allowed on one socket")
        wanted = Filter.of(params)
        since = cursor_of(params, None)
        self._count += 1
        name = f"sub-{self._count}"
        start = self._starts[name] = asyncio.Event()
        self._subscriptions[name] = asyncio.create_task(self._serve(start, wanted, since))
        return name

    def _begin(self, name: str) -> None:
        """Let a subscription begin, now that its answer is out."""
        start = self._starts.pop(name, None)
        if start is not None:
            start.set()

    async def _serve(self, start: asyncio.Event, wanted: Filter, since: Cursor | None) -> None:
        await start.wait()
        try:
            await self.edge.sockets.serve(self.key, self.outlet, wanted, since)
        except TurnstreamError as error:
            _log.warning("socket closed", thread=self.key, error=repr(error))
            # 4503 and 1011 make clients come back with their cursor
            code = error.close_code if error.retryable else 1011
            self.outlet.close(code, error.code)
        except Exception as error:  # noqa: BLE001  one socket ends, its neighbours do not notice
            error_id = unexpected.note("edge_stream", error, thread=self.key)
            self.outlet.close(INTERNAL_CLOSE_CODE, f"internal {error_id}")

    def _unsubscribe(self, params: dict[str, Any]) -> None:
        task = self._subscriptions.pop(str(params.get("subscription_id")), None)
        if task is None:
            raise NotFoundError("there is no such subscription", code="no_such_subscription")
        task.cancel()

    async def _refuse(self, command_id: int | None, why: str) -> None:
        self._bad += 1
        if self._bad > BAD_FRAMES_MAX:
            self.outlet.close(4400, "too many bad frames")
            return
        await self._send(error_message(command_id, CommandError(why)))

    async def _send(self, answer: dict[str, Any]) -> None:
        with contextlib.suppress(RuntimeError, WebSocketDisconnect):
            await self.websocket.send_text(encode(answer).decode())
