"""The Agent Streaming Protocol of one thread: commands, and events over SSE or WebSocket.

`POST /threads/{id}/commands`, `POST /threads/{id}/stream/events`, `WS /threads/{id}/stream/events`.
An event stream has no end of its own: clients take a clean one for the end of the run.
"""

import asyncio
import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import structlog
from fastapi import APIRouter, Depends, Request, WebSocket
from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocketDisconnect

from turnstream.schemas.errors import (
    CommandError,
    InvalidRequestError,
    NotFoundError,
    TurnstreamError,
)
from turnstream.schemas.ids import check_thread_id, thread_key
from turnstream.streams.edge.auth import TOKEN_SUBPROTOCOL, Principal, bearer
from turnstream.streams.edge.connections import connection_of
from turnstream.streams.edge.context import EdgeContext, edge_of, principal_of
from turnstream.streams.edge.cursor import Cursor
from turnstream.streams.edge.filters import Filter
from turnstream.streams.edge.limits import check_origin
from turnstream.streams.edge.outlet import Outlet
from turnstream.streams.edge.submit import Submitted

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

_log = structlog.get_logger(__name__)
_encode = msgspec.json.Encoder().encode
BAD_FRAMES_MAX = 16

Caller = Annotated[Principal, Depends(principal_of)]
router = APIRouter(tags=["thread stream"])


def _takes(schema: dict[str, Any]) -> dict[str, Any]:
    """Return what OpenAPI says of a body that is read by hand."""
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


_COMMAND = {
    "type": "object",
    "required": ["id", "method"],
    "properties": {
        "id": {"type": "integer"},
        "method": {"type": "string", "enum": ["run.start", "input.respond", "run.cancel"]},
        "params": {"type": "object"},
    },
}
_SUBSCRIPTION = {
    "type": "object",
    "required": ["channels"],
    "properties": {
        "channels": {"type": "array", "items": {"type": "string"}, "minItems": 1},
        "namespaces": {
            "type": "array",
            "items": {"type": "array", "items": {"type": "string"}},
        },
        "depth": {"type": "integer", "minimum": 0},
        "since": {"type": "integer", "minimum": 0},
    },
}


@router.post("/threads/{thread_id}/commands", openapi_extra=_takes(_COMMAND))
async def commands(thread_id: str, request: Request, principal: Caller) -> Response:
    """Take one command: `run.start`, `input.respond`, `run.cancel`.

    Answers `{"type": "success", "id", "result", "meta"}` or `{"type": "error", "id", "error"}`.
    """
    command = parse_command(await request.body())
    answer = await Commands(edge_of(request), principal, thread_id).run(command)
    return Response(_encode(answer), media_type="application/json")


@router.post("/threads/{thread_id}/stream/events", openapi_extra=_takes(_SUBSCRIPTION))
async def stream_events(thread_id: str, request: Request, principal: Caller) -> Response:
    """Stream the thread's events as SSE: `{"channels", "namespaces", "depth", "since"}`."""
    edge = edge_of(request)
    params = _object(await request.body())
    wanted = Filter.of(params)
    since = cursor_of(params, request.headers.get("last-event-id"))
    key = await edge.authorised(principal, thread_id)
    edge.sockets.check_room(principal)
    return EventStream(edge, principal, key, wanted, since)


class EventStream(Response):
    """A body that goes on until the client leaves or is cut off."""

    def __init__(
        self,
        edge: EdgeContext,
        principal: Principal,
        key: str,
        wanted: Filter,
        since: Cursor | None,
    ) -> None:
        super().__init__()
        self._edge = edge
        self._principal = principal
        self._serve: tuple[str, Filter, Cursor | None] = (key, wanted, since)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve the stream."""
        headers = [
            (b"content-type", b"text/event-stream; charset=utf-8"),
            (b"cache-control", b"no-store"),
            (b"x-accel-buffering", b"no"),
        ]
        connection = connection_of(HTTPConnection(scope))
        key, wanted, since = self._serve
        with self._edge.sockets.opened(connection, self._principal) as outlet:
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            # something to read, so that proxies and clients see the stream open
            await send({"type": "http.response.body", "body": b": open\n\n", "more_body": True})
            serving = asyncio.create_task(self._edge.sockets.serve(key, outlet, wanted, since))
            leaving = asyncio.create_task(_left(receive))
            try:
                await asyncio.wait({serving, leaving}, return_when=asyncio.FIRST_COMPLETED)
                if serving.done() and not leaving.done():
                    _log.warning("stream cut", thread=key, error=repr(serving.exception()))
                    connection.transport.close()
                    await leaving
            finally:
                for task in (serving, leaving):
                    task.cancel()
                await asyncio.gather(serving, leaving, return_exceptions=True)


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


@router.websocket("/threads/{thread_id}/stream/events")
async def stream_socket(websocket: WebSocket, thread_id: str) -> None:
    """Stream the thread's events over a WebSocket; every frame of the client is a command."""
    edge = edge_of(websocket)
    try:
        check_origin(websocket.headers, edge.settings.allowed_origins)
        principal = await edge.auth.authenticate(bearer(websocket.headers))
        key = thread_key(principal.tenant, check_thread_id(thread_id))
        edge.sockets.check_room(principal)
    except TurnstreamError as error:
        # a browser cannot read the status of a refused upgrade, but a close code it can
        await _accept(websocket)
        await websocket.close(error.close_code, error.code)
        return
    await _accept(websocket)
    with edge.sockets.opened(connection_of(websocket), principal) as outlet:
        await Socket(edge, principal, thread_id, key, outlet, websocket).run()


async def _accept(websocket: WebSocket) -> None:
    offered = websocket.scope.get("subprotocols") or []
    bearing = bool(offered) and offered[0] == TOKEN_SUBPROTOCOL
    await websocket.accept(subprotocol=TOKEN_SUBPROTOCOL if bearing else None)


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

    async def _expect_thread(self) -> None:
        """Close the socket of a thread that nobody begins.

        The JavaScript SDK opens the socket of a thread that it named itself before its first
        command, and takes 4404 for good. A key begins with the caller's tenant: a foreign thread
        is one that nobody begins.
        """
        if await self.edge.knows(self.key):
            return
        await asyncio.sleep(self.edge.sockets.limits.unknown_thread_wait_s)
        if not await self.edge.knows(self.key):
            self.outlet.close(4404, "thread_not_found")

    async def _take(self, message: Any) -> None:
        text = message.get("text")
        command_id: int | None = None
        try:
            command = parse_command((text or "").encode("utf-8", "replace"))
            command_id = command.id
            answer = await self._answer(command)
        except CommandError as error:
            await self._refuse(command_id, str(error))
            return
        except TurnstreamError as error:
            answer = error_message(command_id, error)
        await self._send(answer)
        if command_id is not None and answer["type"] == "success":
            self._begin(answer["result"].get("subscription_id", ""))

    async def _answer(self, command: "Command") -> dict[str, Any]:
        if command.method == "subscription.subscribe":
            return _success(command.id, {"subscription_id": self._subscribe(command.params)})
        if command.method == "subscription.unsubscribe":
            self._unsubscribe(command.params)
            return _success(command.id, {})
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
            await self.websocket.send_text(_encode(answer).decode())


class Command(msgspec.Struct, frozen=True):
    """A command of the protocol."""

    id: int
    method: str
    params: dict[str, Any] = {}


_commands = msgspec.json.Decoder(Command)
_objects = msgspec.json.Decoder(dict[str, Any])


def parse_command(body: bytes) -> Command:
    """Return the command; raises `CommandError` (400)."""
    try:
        return _commands.decode(body)
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeError, RecursionError) as error:
        raise CommandError(f"not a command: {error}") from error


def _object(body: bytes) -> dict[str, Any]:
    try:
        return _objects.decode(body)
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeError, RecursionError) as error:
        raise CommandError(f"not a JSON object: {error}", code="invalid_json") from error


def cursor_of(params: dict[str, Any], last_event_id: str | None) -> Cursor | None:
    """Return the cursor of `since`, else of `Last-Event-ID`; raises `InvalidRequestError`."""
    since = params.get("since")
    if since is not None:
        if not isinstance(since, int) or isinstance(since, bool):
            raise InvalidRequestError("since must be an integer", code="invalid_cursor")
        return Cursor.of_seq(since)
    return Cursor.parse(last_event_id) if last_event_id else None


def _success(command_id: int, result: dict[str, Any], **meta: Any) -> dict[str, Any]:
    answer: dict[str, Any] = {"type": "success", "id": command_id, "result": result}
    return answer | ({"meta": meta} if meta else {})


# the protocol's own codes; what is ours goes by `unknown_error`
_PROTOCOL_CODES = frozenset(
    {
        "invalid_argument",
        "unknown_command",
        "no_such_run",
        "no_such_subscription",
        "no_such_interrupt",
        "permission_denied",
        "not_supported",
    }
)


def error_message(command_id: int | None, error: TurnstreamError) -> dict[str, Any]:
    """Return an error of ours as the protocol's."""
    code = error.code if error.code in _PROTOCOL_CODES else "unknown_error"
    if error.status in {400, 422} and code == "unknown_error":
        code = "invalid_argument"
    return {"type": "error", "id": command_id, "error": code, "message": f"{error.code}: {error}"}


@dataclass(frozen=True, slots=True)
class Commands:
    """Runs one caller's commands on one thread."""

    edge: EdgeContext
    principal: Principal
    thread_id: str

    async def run(self, command: Command) -> dict[str, Any]:
        """Return the answer. Raises what a surface turns into its own error."""
        handlers: dict[str, Callable[[Command], Awaitable[dict[str, Any]]]] = {
            "run.start": self._start,
            "input.respond": self._respond,
            "run.cancel": self._cancel,
        }
        handler = handlers.get(command.method)
        if handler is None:
            error = CommandError(f"unknown method {command.method[:80]}", code="unknown_command")
            return error_message(command.id, error)
        return await handler(command)

    @property
    def _key(self) -> str:
        return thread_key(self.principal.tenant, check_thread_id(self.thread_id))

    async def _start(self, command: Command) -> dict[str, Any]:
        params = command.params
        graph = self.edge.graph_of(_text(params, "assistant_id"))
        if graph is None:
            raise NotFoundError("there is no such assistant", code="assistant_not_found")
        metadata = _json_object(params, "metadata")
        self.edge.sockets.starting(self._key, self.principal)
        submitted = await self.edge.submit.start(
            self.principal,
            self.thread_id,
            graph=graph,
            input=_json(params.get("input", {})),
            config=_json_object(params, "config"),
            metadata=metadata,
        )
        return self._submitted(command, submitted)

    async def _respond(self, command: Command) -> dict[str, Any]:
        params = command.params
        key = await self.edge.authorised(self.principal, self.thread_id)
        if "responses" in params:
            entries = params["responses"]
            if not isinstance(entries, list) or not all(isinstance(e, dict) for e in entries):
                raise CommandError("responses must be a list of objects")
        else:
            entries = [params]
        answers = {_text(entry, "interrupt_id"): entry.get("response") for entry in entries}
        for unsupported in ("update", "goto"):
            if params.get(unsupported) is not None:
                raise CommandError(f"{unsupported} is not supported", code="not_supported")
        self.edge.sockets.starting(key, self.principal)
        submitted = await self.edge.submit.resume(
            self.principal,
            self.thread_id,
            answers=_json(answers),
            graph=await self.edge.graph_asking(key),
            config=_json_object(params, "config"),
            metadata=_json_object(params, "metadata"),
        )
        return self._submitted(command, submitted)

    async def _cancel(self, command: Command) -> dict[str, Any]:
        await self.edge.authorised(self.principal, self.thread_id)
        run_id = _text(command.params, "run_id")
        await self.edge.submit.cancel(self.principal, self.thread_id, run_id)
        return _success(command.id, {"run_id": run_id})

    def _submitted(self, command: Command, submitted: Submitted) -> dict[str, Any]:
        result = {"run_id": submitted.turn_id}
        if submitted.applied_through is None:
            return _success(command.id, result)
        cursor = Cursor.of_seq(submitted.applied_through)
        self.edge.sockets.started(self._key, self.principal, cursor)
        return _success(command.id, result, applied_through_seq=submitted.applied_through)


def _text(params: dict[str, Any], name: str) -> str:
    value = params.get(name)
    if not isinstance(value, str) or not value:
        raise CommandError(f"{name} must be a string")
    return value


def _json(value: Any) -> str:
    return _encode(value).decode()


def _json_object(params: dict[str, Any], name: str) -> str:
    value = params.get(name)
    if value is None:
        return ""
    if not isinstance(value, dict):
        raise CommandError(f"{name} must be an object")
    return _json(value)
