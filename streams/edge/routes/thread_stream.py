"""The Agent Streaming Protocol of one thread: commands, and events over SSE or WebSocket.

`POST /threads/{id}/commands`, `POST /threads/{id}/stream/events`, `WS /threads/{id}/stream/events`.
An event stream never ends by itself: clients take a clean end for the end of the run.
"""

from collections.abc import Mapping
from typing import Annotated

import msgspec
from fastapi import APIRouter, Depends, Request, WebSocket
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from turnstream.schemas.errors import CommandError, TurnstreamError
from turnstream.schemas.limits import check_depth
from turnstream.streams.edge.ask.commands import Commands, encode, parse_command
from turnstream.streams.edge.deliver.client_socket import serve_socket
from turnstream.streams.edge.deliver.event_stream import EventStream
from turnstream.streams.edge.deliver.filters import Filter
from turnstream.streams.edge.deliver.socket import Outlet
from turnstream.streams.edge.deliver.thread_socket import ThreadDialect
from turnstream.streams.edge.follow.cursor import cursor_of
from turnstream.streams.edge.follow.patience import patiently
from turnstream.streams.edge.server.auth import Principal
from turnstream.streams.edge.server.context import EdgeContext, edge_of, principal_of
from turnstream.streams.edge.server.problems import problem_answer

Caller = Annotated[Principal, Depends(principal_of)]
router = APIRouter(tags=["thread stream"])
_objects = msgspec.json.Decoder(dict[str, object])


def _takes(schema: Mapping[str, object]) -> dict[str, object]:
    """Return the OpenAPI description of a body that the route reads by itself."""
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
    """ASGI middleware: answers commands without FastAPI, which costs more than the route itself.

    Every turn begins with a command. The route above answers too, so that OpenAPI documents it.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a command; pass any other request on."""
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

    async def serve(outlet: Outlet) -> None:
        await edge.sockets.serve(key, outlet, wanted, since)

    return EventStream(serve, edge.sockets, principal)


@router.websocket("/threads/{thread_id}/stream/events")
async def stream_socket(websocket: WebSocket, thread_id: str) -> None:
    """Stream the thread's events over a WebSocket; every frame of the client is a command."""

    def dialect(edge: EdgeContext, caller: Principal) -> ThreadDialect:
        return ThreadDialect(edge, caller, thread_id)

    await serve_socket(websocket, dialect)


def _object(body: bytes) -> dict[str, object]:
    check_depth(body, "body", envelope=True)
    try:
        return _objects.decode(body)
    except (ValueError, msgspec.DecodeError) as error:
        raise CommandError(f"not a JSON object: {error}", code="invalid_json") from error
