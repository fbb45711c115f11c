"""The plain endpoints: `POST /chat`, `GET /chat/stream`, `GET /state`, `GET /history`.

A message in, an answer or a stream of plain events (see `plain.py`) out. `socket.py` has the same
over one WebSocket.
"""

from __future__ import annotations

import uuid
from contextlib import aclosing
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, Field
from starlette.responses import Response  # noqa: TC002  FastAPI reads the annotation

from turnstream.schemas.errors import ConflictError, InvalidRequestError
from turnstream.schemas.ids import check_thread_id, thread_key
from turnstream.schemas.records.events import Event
from turnstream.streams.edge.ask.submit import Asked
from turnstream.streams.edge.deliver.event_stream import EventStream, sse
from turnstream.streams.edge.deliver.later_answer import LaterAnswer
from turnstream.streams.edge.follow.cursor import Cursor
from turnstream.streams.edge.follow.patience import patiently
from turnstream.streams.edge.follow.surface import follow
from turnstream.streams.edge.routes.bodies import SEARCH_LIMIT_MAX, ChatBody, Id, Text
from turnstream.streams.edge.routes.deps import Caller, JsonAnswer, Rest, answers, streams
from turnstream.streams.edge.routes.following import LastEventId, place_of
from turnstream.streams.edge.routes.history import past_states
from turnstream.streams.edge.routes.reading import JsonRoute
from turnstream.streams.edge.routes.shapes import ChatAnswer, ThreadState
from turnstream.streams.edge.routes.starting import make_if_needed
from turnstream.streams.edge.server.context import DEFAULT_GRAPH
from turnstream.streams.edge.server.origins import check_same_site
from turnstream.streams.edge.surfaces.encoding import encode
from turnstream.streams.edge.surfaces.plain import SimpleProjection, end_of
from turnstream.streams.edge.surfaces.run_endings import run_status, shown

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from turnstream.schemas.records.commands import StartTurn
    from turnstream.schemas.records.results import Outcome
    from turnstream.streams.edge.ask.submit import Submitted

router = APIRouter(tags=["plain"], route_class=JsonRoute)
_ACCEPTED: dict[int | str, dict[str, Any]] = {
    202: {"model": ChatAnswer, "description": "accepted, not started yet"}
}


@router.post("/chat", responses=answers(ChatAnswer, "the answer") | _ACCEPTED, summary="Chat")
async def chat(rest: Caller, body: ChatBody) -> Response:
    """Send a message to a thread and get the whole answer.

    The answer is 202 with `wait: false`, or if the turn has not started in time, because it waits
    behind others or no worker is up. `Content-Location` is the run.
    """
    if body.wait:
        rest.edge.sockets.check_room(rest.caller)
    thread_id, submitted = await say(rest, body)
    run_id = submitted.turn_id
    place = {"Content-Location": place_of(thread_id, run_id)}
    about = {"thread_id": thread_id, "run_id": run_id}
    if submitted.state == "pending" or not body.wait:
        status = "pending" if submitted.state == "pending" else "running"
        return JsonAnswer(about | {"status": status}, status_code=202, headers=place)
    key = await rest.key(thread_id)

    async def answer() -> bytes:
        return encode(about | _ended(await rest.joining.ended(key, run_id)))

    return LaterAnswer(answer, rest.edge.sockets, rest.caller, headers=place)


class ChatStreamQuery(BaseModel):
    """The thread to stream, where to begin, and a message to send before."""

    thread_id: Text
    since: int | None = Field(default=None, ge=0, description="an event's id: begin after it")
    user_input: Text | None = Field(
        default=None, min_length=1, description="start a turn with this text"
    )
    turn_id: UUID | None = Field(
        default=None, description="of that turn: the same one again is the same turn"
    )
    graph: Id = DEFAULT_GRAPH


@router.get("/chat/stream", responses=streams("plain events"), summary="Stream a thread")
async def chat_stream(
    rest: Caller,
    request: Request,
    asked: Annotated[ChatStreamQuery, Query()],
    last_event_id: LastEventId = None,
) -> Response:
    """Stream a thread as plain events: the running turn from its beginning, then later ones.

    Each event's id is a cursor. A stream without a cursor begins with `opened`, whose id is the
    cursor of the beginning. If the log no longer reaches a cursor, a `reset` event comes: read
    `/state` and go on from there.

    With `user_input`, for a browser's `EventSource`, the edge first starts a turn, in a new thread
    if there is none, and streams it from its beginning. `turn_id` makes the call repeatable: the
    same id is the same turn. Without it, a call with `Last-Event-ID` starts nothing, because it
    comes from a client that was cut. A page of another origin gets a 403, because any page can make
    a browser send a GET.
    """
    after = Cursor.parse(last_event_id) if last_event_id else None
    rest.edge.sockets.check_room(rest.caller)
    turn_id = ""
    if asked.user_input is not None:
        check_same_site(request.headers, rest.edge.settings.allowed_origins)
        if after is None or asked.turn_id is not None:
            turn_id = await _started(rest, asked, asked.user_input)
    elif asked.turn_id is not None:
        raise InvalidRequestError("turn_id needs user_input", field="turn_id")
    if after is None and asked.since is not None:
        after = Cursor.of_seq(asked.since)
    key = await patiently(lambda: rest.key(asked.thread_id))
    from_turn = "" if after is not None else turn_id

    async def events() -> AsyncGenerator[bytes, None]:
        plain = follow(rest.edge.feed, key, SimpleProjection, after, from_turn)
        async with aclosing(plain):
            async for seq, (name, data) in plain:
                yield sse(name, encode(data), seq)

    return EventStream.of(events(), rest.edge.sockets, rest.caller)


async def _started(rest: Rest, asked: ChatStreamQuery, text: str) -> str:
    """Start the turn unless it was started before; return its id.

    Raises `ConflictError` (`turn_id_taken`) for the id of another thread's turn.
    """
    body = ChatBody(text=text, thread_id=asked.thread_id, graph=asked.graph)
    if asked.turn_id is None:
        return (await say(rest, body))[1].turn_id
    turn_id = str(asked.turn_id)
    row = await rest.find_run(turn_id)
    if row is None:
        return (await say(rest, body, turn_id))[1].turn_id
    if row.thread_key != thread_key(rest.caller.tenant, check_thread_id(asked.thread_id)):
        raise ConflictError(
            f"turn {turn_id} belongs to another thread", code="turn_id_taken", field="turn_id"
        )
    return turn_id


@router.get("/state", responses=answers(ThreadState, "the state"), summary="State")
async def state(rest: Caller, thread_id: Annotated[Text, Query()]) -> JsonAnswer:
    """Return a thread's latest state."""
    return JsonAnswer(await rest.states.state(await rest.key(thread_id)))


@router.get("/history", responses=answers(list[ThreadState], "the states"), summary="History")
async def history(
    rest: Caller,
    thread_id: Annotated[Text, Query()],
    limit: Annotated[int, Query(ge=1, le=SEARCH_LIMIT_MAX)] = 10,
    before: Annotated[Id | None, Query(description="a checkpoint's id")] = None,
) -> Response:
    """Return a thread's past states, newest first."""
    return await past_states(rest, thread_id, limit=limit, before=before or "")


async def say(rest: Rest, body: ChatBody, turn_id: str = "") -> tuple[str, Submitted]:
    """Start a turn with a text; return the thread's id and the command's outcome."""
    command = said(rest, body, turn_id)
    await make_if_needed(rest, command.thread_id, create=True, graph=command.graph)
    return command.thread_id, await rest.edge.submit.send(command)


def said(rest: Rest, body: ChatBody, turn_id: str = "") -> StartTurn:
    """Return the command for a text, for a new thread if none is named.

    Raises `NotFoundError` (404), `InvalidRequestError` (422, 413).
    """
    if not body.text.strip():
        raise InvalidRequestError("text is empty", code="input_missing", field="text")
    return rest.edge.submit.start_of(
        rest.caller,
        Asked(
            thread_id=body.thread_id or str(uuid.uuid4()),
            graph=rest.edge.catalog.find(body.graph).name,
            turn_id=turn_id,
            idempotency_key=body.idempotency_key or "",
            expires_at=body.expires_at or 0,
        ),
        text=body.text,
        on_busy=body.on_busy,
    )


def _ended(end: Event | Outcome) -> dict[str, object]:
    """Return a run's end, from its terminal or from the ledger's outcome."""
    if isinstance(end, Event):
        return end_of(end)
    answer: dict[str, object] = {"status": run_status(end.status, end.code), "text": end.text}
    if end.status in ("failed", "rejected"):
        answer["error"] = {"code": end.code, "message": end.message}
    if end.interrupts:
        answer["questions"] = shown(tuple(end.interrupts))
    return answer
