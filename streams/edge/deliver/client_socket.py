"""A client's WebSocket, for every surface of the edge: its frames and its subscriptions."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

import structlog
from starlette.websockets import WebSocketDisconnect

from turnstream.schemas import unexpected
from turnstream.schemas.errors import (
    CommandError,
    NotFoundError,
    TooManyRequestsError,
    TurnstreamError,
)
from turnstream.streams.edge.deliver.frames import websocket_frame
from turnstream.streams.edge.server.auth import TOKEN_SUBPROTOCOL
from turnstream.streams.edge.server.connections import INTERNAL_CLOSE_CODE, connection_of
from turnstream.streams.edge.server.context import edge_of, principal_of
from turnstream.streams.edge.server.origins import check_origin
from turnstream.streams.edge.server.problems import unexpected_text
from turnstream.streams.edge.surfaces.encoding import encode

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping

    from starlette.types import Message
    from starlette.websockets import WebSocket

    from turnstream.streams.edge.deliver.socket import Outlet
    from turnstream.streams.edge.server.auth import Principal
    from turnstream.streams.edge.server.context import EdgeContext

    Stream = Coroutine[None, None, None]

_log = structlog.get_logger(__name__)
BAD_FRAMES_MAX = 16
"""Malformed frames of one socket; the edge closes a socket that sends more, with 4400."""

Frame = TypeVar("Frame")


class Dialect(Protocol[Frame]):
    """The frames of one surface: how they are read, carried out and answered."""

    def read(self, data: str | bytes) -> Frame:
        """Return a client's frame; raises `TurnstreamError`."""
        ...

    async def answer(self, frame: Frame, socket: ClientSocket[Frame]) -> Mapping[str, object]:
        """Carry a frame out and return its answer; raises `TurnstreamError`."""
        ...

    def refusal(self, frame: Frame | None, error: TurnstreamError) -> Mapping[str, object]:
        """Return the answer to a frame that failed; `frame` is None if it could not be read."""
        ...

    async def attend(self, socket: ClientSocket[Frame]) -> None:
        """Run beside the frames as long as the socket is open; may return at once."""
        ...


async def serve_socket(
    websocket: WebSocket, dialect_of: Callable[[EdgeContext, Principal], Dialect[Frame]]
) -> None:
    """Accept a client and serve it until it leaves.

    `dialect_of` raises a `TurnstreamError` to refuse the client. A refused client is accepted and
    then closed, because a browser can read a close code and no status of a refused upgrade.
    """
    edge = edge_of(websocket)
    try:
        check_origin(websocket.headers, edge.settings.allowed_origins)
        caller = await principal_of(websocket)
        dialect = dialect_of(edge, caller)
        edge.sockets.check_room(caller)
    except TurnstreamError as error:
        await _accept(websocket)
        await websocket.close(error.close_code, error.code)
        return
    await _accept(websocket)
    # the watchdog ends a socket that takes nothing, whose token expires, or when the edge stops
    with edge.sockets.opened(connection_of(websocket), caller) as outlet:
        await ClientSocket(edge, caller, websocket, outlet, dialect).run()


async def _accept(websocket: WebSocket) -> None:
    offered = websocket.scope.get("subprotocols") or []
    bearing = bool(offered) and offered[0] == TOKEN_SUBPROTOCOL
    await websocket.accept(subprotocol=TOKEN_SUBPROTOCOL if bearing else None)


@dataclass(slots=True)
class ClientSocket(Generic[Frame]):
    """One client: its subscriptions, and at most `commands_per_socket_max` frames at a time.

    With so many frames under way the edge reads no further, and TCP slows the client down.
    """

    edge: EdgeContext
    caller: Principal
    websocket: WebSocket
    outlet: Outlet
    dialect: Dialect[Frame]
    subscriptions: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    _working: set[asyncio.Task[None]] = field(default_factory=set)
    _bad: int = 0

    async def run(self) -> None:
        """Serve until the client leaves."""
        attending = asyncio.create_task(self.dialect.attend(self))
        try:
            with suppress(WebSocketDisconnect):
                while (message := await self.websocket.receive())["type"] != "websocket.disconnect":
                    task = asyncio.create_task(self._take(message))
                    self._working.add(task)
                    task.add_done_callback(self._working.discard)
                    await self._room()
        finally:
            tasks = (attending, *self._working, *self.subscriptions.values())
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self.subscriptions.clear()  # their stacks refer to this socket

    async def _room(self) -> None:
        while len(self._working) >= self.edge.sockets.limits.commands_per_socket_max:
            await asyncio.wait(self._working, return_when=asyncio.FIRST_COMPLETED)

    async def _take(self, message: Message) -> None:
        frame: Frame | None = None
        try:
            frame = self.dialect.read(message.get("text") or message.get("bytes") or b"")
            self.edge.count(self.caller)
            answer = await self.dialect.answer(frame, self)
        except TurnstreamError as error:
            self._bad += frame is None or isinstance(error, CommandError)
            answer = self.dialect.refusal(frame, error)
        except Exception as error:  # noqa: BLE001  one frame fails, the socket goes on
            error_id = unexpected.note("edge_frame", error)
            failed = TurnstreamError(unexpected_text(error, error_id))
            answer = self.dialect.refusal(frame, failed)
        if self._bad > BAD_FRAMES_MAX:
            self.outlet.close(4400, "too many bad frames")
            return
        # no await since `answer` returned: the answer precedes events of a new subscription
        await self.send(answer)

    async def send(self, message: Mapping[str, object]) -> None:
        """Write one frame; wait while the client takes less than it is sent."""
        slow_bytes = self.edge.sockets.limits.buffer_slow_bytes
        await self.outlet.send(websocket_frame(encode(message)), slow_bytes)

    def subscribe(self, name: str, key: str, stream: Stream) -> None:
        """Run a stream of thread `key` under a name, in place of the one that has the name.

        Raises `TooManyRequestsError` (`too_many_subscriptions`).
        """
        self.unsubscribe(name, missing_ok=True)
        limit = self.edge.sockets.limits.subscriptions_per_socket_max
        if len(self.subscriptions) >= limit:
            stream.close()
            raise TooManyRequestsError(
                f"{limit} subscriptions are allowed on one socket", code="too_many_subscriptions"
            )
        self.subscriptions[name] = asyncio.create_task(self._stream(key, stream))

    def unsubscribe(self, name: str, *, missing_ok: bool = False) -> None:
        """End a stream; raises `NotFoundError` (`no_such_subscription`)."""
        task = self.subscriptions.pop(name, None)
        if task is not None:
            task.cancel()
        elif not missing_ok:
            raise NotFoundError("there is no such subscription", code="no_such_subscription")

    async def _stream(self, key: str, stream: Stream) -> None:
        try:
            await stream
        except TurnstreamError as error:
            _log.warning("subscription_lost", thread=key, code=error.code)
            # after 4503 and 1011 clients come back with their cursor
            code = error.close_code if error.retryable else INTERNAL_CLOSE_CODE
            self.outlet.close(code, error.code)
        except Exception as error:  # noqa: BLE001  one socket ends, others go on
            error_id = unexpected.note("edge_stream", error, thread=key)
            self.outlet.close(INTERNAL_CLOSE_CODE, f"internal {error_id}")
