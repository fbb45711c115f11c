"""`WS /ws`: the plain endpoints over one WebSocket, any number of threads.

The client sends JSON objects; `id` (optional) comes back in the answer:

- `{"type": "chat", "text", "thread_id"?, "graph"?, "idempotency_key"?, "on_busy"?, "expires_at"?}`:
  say something; subscribes to the thread; answered by
  `{"type": "accepted", "thread_id", "run_id", "status"}`
- `{"type": "resume", "thread_id", "answers": {question id: answer}, "expires_at"?}`: likewise
- `{"type": "cancel", "thread_id", "run_id", "rollback"?}`: answered by `{"type": "ok"}`
- `{"type": "subscribe", "thread_id", "since"?}`, `{"type": "unsubscribe", "thread_id"}`: `ok`
- `{"type": "ping"}`: `{"type": "pong"}`

The server sends the plain events of `plain.py` as
`{"type": <event>, "thread_id", "cursor", ...}`, and for what cannot be done
`{"type": "error", "id", "code", "detail", "field", "retryable"}`. A socket is closed with
4000 + HTTP status (4401, 4403, 4429 …), and with 1012 when the edge stops.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
import structlog
from fastapi import APIRouter, WebSocket
from pydantic import ValidationError
from starlette.websockets import WebSocketDisconnect

from turnstream.schemas import unexpected
from turnstream.schemas.errors import (
    InvalidRequestError,
    TooManyRequestsError,
    TurnstreamError,
)
from turnstream.schemas.limits import INT_MAX, INT_MIN, check_depth
from turnstream.schemas.records.commands import OnBusy
from turnstream.schemas.text import clean_text
from turnstream.streams.edge.deliver.event_stream import room
from turnstream.streams.edge.deliver.frames import websocket_frame
from turnstream.streams.edge.follow.cursor import Cursor
from turnstream.streams.edge.follow.directory import patiently
from turnstream.streams.edge.follow.surface import follow
from turnstream.streams.edge.routes.bodies import ChatBody, CommandBody, RunBody, check_json
from turnstream.streams.edge.routes.chat import said
from turnstream.streams.edge.routes.deps import Rest
from turnstream.streams.edge.routes.starting import start
from turnstream.streams.edge.routes.threads import make_if_needed
from turnstream.streams.edge.server.auth import TOKEN_SUBPROTOCOL
from turnstream.streams.edge.server.connections import INTERNAL_CLOSE_CODE, connection_of
from turnstream.streams.edge.server.context import DEFAULT_GRAPH, edge_of, principal_of
from turnstream.streams.edge.server.entrance import check_origin
from turnstream.streams.edge.server.problems import unexpected_text
from turnstream.streams.edge.surfaces.plain import SimpleProjection
from turnstream.streams.edge.surfaces.states import encode

if TYPE_CHECKING:
    from turnstream.streams.edge.deliver.socket import Outlet

router = APIRouter()
_log = structlog.get_logger(__name__)
BAD_FRAMES_MAX = 16
NAME_CHARS_MAX = 500


class Frame(msgspec.Struct):
    """What a client sends; each type needs its own fields."""

    type: Literal["chat", "resume", "cancel", "subscribe", "unsubscribe", "ping"]
    id: Annotated[int, msgspec.Meta(ge=INT_MIN, le=INT_MAX)] | str | None = None
    thread_id: str = ""
    run_id: str = ""
    text: str = ""
    graph: str = ""
    idempotency_key: str = ""
    on_busy: OnBusy = "enqueue"
    expires_at: int | None = None
    answers: dict[str, Any] = msgspec.field(default_factory=dict)
    since: int | None = None
    rollback: bool = False


_frames = msgspec.json.Decoder(Frame)


@router.websocket("/ws")
async def socket(websocket: WebSocket) -> None:
    """Serve one client until it leaves; see the module."""
    edge = edge_of(websocket)
    try:
        check_origin(websocket.headers, edge.settings.allowed_origins)
        caller = await principal_of(websocket)
        edge.sockets.check_room(caller)
    except TurnstreamError as error:
        # a browser cannot read the status of a refused upgrade, but a close code it can
        await _accept(websocket)
        await websocket.close(error.close_code, error.code)
        return
    await _accept(websocket)
    # the watchdog looks after it: a peer that takes nothing, a token that is over, a stop
    with edge.sockets.opened(connection_of(websocket), caller) as outlet:
        await PlainSocket(Rest(edge, caller), websocket, outlet).run()


async def _accept(websocket: WebSocket) -> None:
    offered = websocket.scope.get("subprotocols") or []
    bearing = bool(offered) and offered[0] == TOKEN_SUBPROTOCOL
    await websocket.accept(subprotocol=TOKEN_SUBPROTOCOL if bearing else None)


@dataclass(slots=True)
class PlainSocket:
    """One client: its subscriptions, and its commands in the order in which they come."""

    rest: Rest
    websocket: WebSocket
    outlet: Outlet
    _subscriptions: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    _working: set[asyncio.Task[None]] = field(default_factory=set)
    _bad: int = 0

    async def run(self) -> None:
        """Serve until the client leaves. Always sits in `receive`: unread pongs end a socket."""
        try:
            while True:
                message = await self.websocket.receive()
                if message["type"] == "websocket.disconnect" or self._bad > BAD_FRAMES_MAX:
                    break
                task = asyncio.create_task(self._take(message))
                self._working.add(task)
                task.add_done_callback(self._working.discard)
                await self._room()
        except WebSocketDisconnect:
            pass
        finally:
            tasks = (*self._working, *self._subscriptions.values())
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._subscriptions.clear()  # their stacks refer to this

    async def _room(self) -> None:
        """Wait while too many commands are under way: the client is read no further."""
        while len(self._working) >= self.rest.edge.sockets.limits.commands_per_socket_max:
            await asyncio.wait(self._working, return_when=asyncio.FIRST_COMPLETED)

    async def _take(self, message: Any) -> None:
        frame_id: int | str | None = None
        try:
            frame = _frame(message)
            frame_id = frame.id
            self.rest.edge.count(self.rest.caller)
            answer = await self._answer(frame)
        except TurnstreamError as error:
            self._bad += error.code in {"invalid_frame", "too_deep"}
            answer = _error(error)
        except Exception as error:  # noqa: BLE001  one frame ends, the socket goes on
            error_id = unexpected.note("edge_frame", error)
            answer = _error(TurnstreamError(unexpected_text(error, error_id)))
        await self._send(answer | {"id": frame_id})

    async def _answer(self, frame: Frame) -> dict[str, Any]:
        match frame.type:
            case "ping":
                return {"type": "pong"}
            case "chat":
                return await self._chat(frame)
            case "resume":
                return await self._resume(frame)
            case "unsubscribe":
                self._leave(frame.thread_id)
            case "subscribe":
                since = None if frame.since is None else Cursor.of_seq(frame.since)
                await self._join(frame.thread_id, since)
            case "cancel":
                key = await self.rest.key(frame.thread_id)
                row = await self.rest.run(key, frame.run_id)
                run_id = str(row.turn_id)
                await self.rest.edge.submit.cancel(
                    self.rest.caller, frame.thread_id, run_id, rollback=frame.rollback
                )
        return {"type": "ok"}

    async def _chat(self, frame: Frame) -> dict[str, Any]:
        try:
            body = ChatBody(
                text=frame.text,
                thread_id=frame.thread_id or None,
                graph=frame.graph or DEFAULT_GRAPH,
                idempotency_key=frame.idempotency_key or None,
                on_busy=frame.on_busy,
                expires_at=frame.expires_at,
            )
        except ValidationError as error:
            raise _invalid(error) from error
        command = said(self.rest, body)  # nothing is made for what is refused
        thread_id = command.thread_id
        await make_if_needed(self.rest, thread_id, create=True, graph=command.graph)
        if thread_id not in self._subscriptions:
            await self._join(thread_id, None)
        submitted = await self.rest.edge.submit.send(command)
        return {
            "type": "accepted",
            "thread_id": thread_id,
            "run_id": submitted.turn_id,
            "status": "pending" if submitted.state == "pending" else "running",
        }

    async def _resume(self, frame: Frame) -> dict[str, Any]:
        key = await self.rest.key(frame.thread_id)
        graph = frame.graph or await self.rest.edge.graph_asking(key)
        try:
            body = RunBody(
                assistant_id=graph,
                command=CommandBody(resume=check_json(frame.answers)),
                expires_at=frame.expires_at,
            )
        except (ValidationError, ValueError) as error:
            raise _invalid(error) from error
        if frame.thread_id not in self._subscriptions:
            await self._join(frame.thread_id, None)
        started = await start(self.rest, frame.thread_id, body)
        return {
            "type": "accepted",
            "thread_id": frame.thread_id,
            "run_id": started.run_id,
            "status": "pending" if started.submitted.state == "pending" else "running",
        }

    async def _join(self, thread_id: str, since: Cursor | None) -> None:
        """Subscribe to a thread; a second time begins anew."""
        limit = self.rest.edge.sockets.limits.subscriptions_per_socket_max
        key = await patiently(lambda: self.rest.key(thread_id))
        self._leave(thread_id)
        if len(self._subscriptions) >= limit:
            raise TooManyRequestsError(
                f"{limit} subscriptions are allowed on one socket", code="too_many_subscriptions"
            )
        self._subscriptions[thread_id] = asyncio.create_task(self._follow(thread_id, key, since))

    def _leave(self, thread_id: str) -> None:
        task = self._subscriptions.pop(thread_id, None)
        if task is not None:
            task.cancel()

    async def _follow(self, thread_id: str, key: str, since: Cursor | None) -> None:
        try:
            events = follow(self.rest.edge.feed, key, SimpleProjection, since)
            async with aclosing(events):
                async for seq, (name, data) in events:
                    about = {"type": name, "thread_id": thread_id, "cursor": seq}
                    await self._send(about | data)
        except TurnstreamError as error:
            # its events are missing from here on: the client comes back with its cursor
            _log.warning("subscription lost", thread=key, code=error.code)
            self.outlet.close(error.close_code, error.code)
        except Exception as error:  # noqa: BLE001  one socket ends, its neighbours do not notice
            error_id = unexpected.note("edge_stream", error, thread=key)
            self.outlet.close(INTERNAL_CLOSE_CODE, f"internal {error_id}")

    async def _send(self, message: dict[str, Any]) -> None:
        """Write one frame, and wait while the client takes less than it is given."""
        outlet, slow = self.outlet, self.rest.edge.sockets.limits.buffer_slow_bytes
        outlet.write_raw(websocket_frame(encode(message)))
        if outlet.buffered > slow:
            await room(outlet, slow // 2)


def _error(error: TurnstreamError) -> dict[str, Any]:
    """Return the answer to a frame that could not be carried out."""
    return {
        "type": "error",
        "code": error.code,
        "detail": clean_text(str(error)),
        "field": error.field,
        "retryable": error.retryable,
    }


def _frame(message: Any) -> Frame:
    """Return a client's frame; raises `InvalidRequestError` (`invalid_frame`)."""
    data = message.get("text") or message.get("bytes") or b""
    if data.lstrip()[:1] not in ("{", b"{"):
        raise InvalidRequestError("a frame is a JSON object", code="invalid_frame")
    check_depth(data, envelope=True)
    try:
        frame = _frames.decode(data)
    except (ValueError, msgspec.MsgspecError) as error:
        raise InvalidRequestError(
            f"this is no frame of ours: {error}", code="invalid_frame"
        ) from error
    for name in ("id", "thread_id", "run_id", "graph", "idempotency_key"):
        value = getattr(frame, name)
        if isinstance(value, str) and len(value) > NAME_CHARS_MAX:
            raise InvalidRequestError(
                f"{name} has more than {NAME_CHARS_MAX} characters",
                code="invalid_frame",
                field=name,
            )
    return frame


def _invalid(error: ValueError) -> InvalidRequestError:
    """Return what is wrong with a field, as HTTP says it."""
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return InvalidRequestError(first["msg"], field=".".join(map(str, first["loc"])))
    return InvalidRequestError(str(error))
