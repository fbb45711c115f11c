"""The Agent Streaming Protocol of one thread: commands, and events over SSE or WebSocket.

`POST /threads/{id}/commands`, `POST /threads/{id}/stream/events`, `WS /threads/{id}/stream/events`.
An event stream has no end of its own: clients take a clean one for the end of the run.
"""

import asyncio
from typing import Annotated, Any

import msgspec
import structlog
from fastapi import APIRouter, Depends, Request, WebSocket
from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from turnstream.schemas import unexpected
from turnstream.schemas.errors import CommandError, TurnstreamError
from turnstream.schemas.ids import check_thread_id, thread_key
from turnstream.schemas.limits import check_depth
from turnstream.streams.edge.ask.commands import Commands, encode, parse_command
from turnstream.streams.edge.deliver.filters import Filter
from turnstream.streams.edge.deliver.thread_socket import Socket
from turnstream.streams.edge.follow.cursor import Cursor, cursor_of
from turnstream.streams.edge.follow.directory import patiently
from turnstream.streams.edge.server.auth import TOKEN_SUBPROTOCOL, Principal
from turnstream.streams.edge.server.connections import connection_of
from turnstream.streams.edge.server.context import EdgeContext, edge_of, principal_of
from turnstream.streams.edge.server.entrance import check_origin
from turnstream.streams.edge.server.problems import problem_answer

_log = structlog.get_logger(__name__)

Caller = Annotated[Principal, Depends(principal_of)]
router = APIRouter(tags=["thread stream"])
_objects = msgspec.json.Decoder(dict[str, Any])


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


@router.post("/threads/{thread_id}/commands", summary="Command", openapi_extra=_takes(_COMMAND))
async def commands(thread_id: str, request: Request) -> Response:
    """Take one command: `run.start`, `input.respond`, `run.cancel`.

    Answers `{"type": "success", "id", "result", "meta"}` or `{"type": "error", "id", "error"}`.
    """
    principal = await principal_of(request)
    command = parse_command(await request.body())
    answer = await Commands(edge_of(request), principal, thread_id).run(command)
    return Response(encode(answer), media_type="application/json")


class CommandsFirst:
    """ASGI middleware: the route of commands without FastAPI between, which costs more than it.

    Every turn begins with a command. The same function answers; the document names it once.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a command; pass on what is none."""
        if scope["type"] == "http" and scope["method"] == "POST":
            empty, _, rest = scope["path"].partition("/threads/")
            thread_id, _, last = rest.partition("/")
            if not empty and thread_id and last == "commands":
                try:
                    answer = await commands(thread_id, Request(scope, receive))
                except TurnstreamError as error:
                    answer = problem_answer(error)
                await answer(scope, receive, send)
                return
        await self._app(scope, receive, send)


@router.post(
    "/threads/{thread_id}/stream/events", summary="Stream", openapi_extra=_takes(_SUBSCRIPTION)
)
async def stream_events(thread_id: str, request: Request, principal: Caller) -> Response:
    """Stream the thread's events as SSE: `{"channels", "namespaces", "depth", "since"}`."""
    edge = edge_of(request)
    params = _object(await request.body())
    wanted = Filter.of(params)
    since = cursor_of(params, request.headers.get("last-event-id"))
    key = await patiently(lambda: edge.authorised(principal, thread_id))
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
                    _note_end(serving.exception(), key)
                    connection.transport.close()
                    await leaving
            finally:
                for task in (serving, leaving):
                    task.cancel()
                await asyncio.gather(serving, leaving, return_exceptions=True)


def _note_end(error: BaseException | None, key: str) -> None:
    """Log why a stream is cut; its client comes back with its cursor."""
    if error is None or isinstance(error, TurnstreamError):
        _log.warning("stream cut", thread=key, code=error.code if error else "ended")
    else:
        unexpected.note("edge_stream", error, thread=key)


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


@router.websocket("/threads/{thread_id}/stream/events")
async def stream_socket(websocket: WebSocket, thread_id: str) -> None:
    """Stream the thread's events over a WebSocket; every frame of the client is a command."""
    edge = edge_of(websocket)
    try:
        check_origin(websocket.headers, edge.settings.allowed_origins)
        principal = await principal_of(websocket)
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


def _object(body: bytes) -> dict[str, Any]:
    check_depth(body, "body", envelope=True)
    try:
        return _objects.decode(body)
    except (ValueError, msgspec.DecodeError) as error:
        raise CommandError(f"not a JSON object: {error}", code="invalid_json") from error
