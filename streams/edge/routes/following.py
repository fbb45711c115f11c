"""The answers of the runs routes: a run created, streamed, waited for, or joined."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated
from urllib.parse import quote, urlencode

from fastapi import Depends, Header, Query

from turnstream.schemas.errors import ConflictError
from turnstream.schemas.ids import assistant_id_of
from turnstream.streams.edge.deliver.event_stream import EventStream
from turnstream.streams.edge.deliver.later_answer import LaterAnswer
from turnstream.streams.edge.follow.cursor import Cursor
from turnstream.streams.edge.routes.bodies import RunBody, Text
from turnstream.streams.edge.routes.deps import JsonAnswer, Rest, thread_id_of
from turnstream.streams.edge.routes.present import (
    new_run_json,
    run_json,
    shown_modes,
    shows_subgraphs,
)
from turnstream.streams.edge.routes.reading import json_list
from turnstream.streams.edge.routes.starting import DEFAULT_MODES, Started, modes_of, start
from turnstream.streams.edge.surfaces.encoding import encode
from turnstream.streams.edge.surfaces.run_projection import RunProjection

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.responses import Response

    from turnstream.connectors.postgres.ledger.ledger import TurnRow

# for a run whose start named no modes: it came from Kafka, or by the agent protocol
JOIN_MODES = frozenset({"values", "updates", "messages-tuple", "custom"})

Flag = Annotated[bool, Query()]
Modes = Annotated[list[Text] | None, Query(description="names, or one JSON list of names")]
LastEventId = Annotated[str | None, Header(alias="Last-Event-ID")]


async def created(
    rest: Rest, thread_id: str, body: RunBody, *, new_thread: bool = False
) -> Response:
    """Start a run and answer with it as soon as the ledger knows it.

    A run that waits behind others has no record yet, but `multitask_strategy` may have rejected it,
    so the ledger is asked. Without a worker the run is `pending`: Kafka has it.
    """
    started = await start(rest, thread_id, body, new_thread=new_thread, wait=False)
    row = await rest.find_run(started.run_id, started.key)
    outcome = row.outcome if row is not None else None
    if outcome is not None and outcome.status == "rejected":
        raise ConflictError(outcome.message, code=outcome.code or "rejected")
    run = run_json(row) if row is not None else as_created(started, body)
    return JsonAnswer(run, headers={"Content-Location": place_of(thread_id, started.run_id)})


async def streamed(
    rest: Rest, thread_id: str, body: RunBody, *, new_thread: bool = False
) -> Response:
    """Start a run and stream it from its beginning."""
    modes = modes_of(body.stream_mode, DEFAULT_MODES)
    rest.edge.sockets.check_room(rest.caller)
    resumed = body.command is not None and body.command.resume is not None
    started = await start(rest, thread_id, body, new_thread=new_thread)
    return _follow(
        rest,
        started.key,
        started.run_id,
        started.graph,
        modes,
        subgraphs=bool(body.stream_subgraphs),
        resumed=resumed,
        cancel=body.on_disconnect == "cancel",
        after=None,
    )


async def waited(
    rest: Rest, thread_id: str, body: RunBody, *, new_thread: bool = False
) -> Response:
    """Start a run and answer with its final values."""
    rest.edge.sockets.check_room(rest.caller)
    started = await start(rest, thread_id, body, new_thread=new_thread)
    place = place_of(thread_id, started.run_id)
    cancel = body.on_disconnect == "cancel"
    headers = {
        "Location": f"{place}/join" + ("?cancel_on_disconnect=true" if cancel else ""),
        "Content-Location": place,
    }
    leave = canceller(rest, thread_id, started.run_id) if cancel else None
    return later(rest, started.key, started.run_id, headers, leave)


@dataclass(frozen=True, slots=True)
class JoinQuery:
    """The query of a stream that joins a run."""

    modes: frozenset[str] | None
    subgraphs: bool | None
    cancel: bool
    after: Cursor | None


# `async` because FastAPI runs other functions in a thread pool
async def _join_query(
    *,
    stream_mode: Modes = None,
    stream_subgraphs: Annotated[
        bool | None, Query(description="default: as the run was started")
    ] = None,
    cancel_on_disconnect: Flag = False,
    last_event_id: LastEventId = None,
) -> JoinQuery:
    return JoinQuery(
        modes_of(asked, JOIN_MODES) if (asked := names(stream_mode)) else None,
        subgraphs=stream_subgraphs,
        cancel=cancel_on_disconnect,
        after=after_of(last_event_id),
    )


Joined = Annotated[JoinQuery, Depends(_join_query)]


def joined(rest: Rest, row: TurnRow, asked: JoinQuery) -> EventStream:
    """Stream a run that the ledger knows."""
    return _follow(
        rest,
        row.thread_key,
        str(row.turn_id),
        row.graph,
        asked.modes or shown_modes(row) or JOIN_MODES,
        subgraphs=shows_subgraphs(row) if asked.subgraphs is None else asked.subgraphs,
        resumed=row.kind == "resume",
        cancel=asked.cancel,
        after=asked.after,
    )


def _follow(
    rest: Rest,
    key: str,
    run_id: str,
    graph: str,
    modes: frozenset[str],
    *,
    subgraphs: bool,
    resumed: bool,
    cancel: bool,
    after: Cursor | None,
) -> EventStream:
    thread_id = thread_id_of(key)
    about = {
        "thread_id": thread_id,
        "graph_id": graph,
        "assistant_id": assistant_id_of(graph),
    }
    projection = RunProjection(run_id, modes, subgraphs=subgraphs, resumed=resumed, about=about)
    place = place_of(thread_id, run_id)
    # a client that was cut comes back to this address with its last event's id only
    query = [("stream_mode", mode) for mode in sorted(modes)]
    query += [("stream_subgraphs", "true")] * subgraphs
    query += [("cancel_on_disconnect", "true")] * cancel
    return EventStream.of(
        rest.joining.stream(key, projection, after),
        rest.edge.sockets,
        rest.caller,
        headers={"Location": f"{place}/stream?{urlencode(query)}", "Content-Location": place},
        on_disconnect=canceller(rest, thread_id, run_id) if cancel else None,
    )


def later(
    rest: Rest,
    key: str,
    run_id: str,
    headers: dict[str, str],
    leave: Callable[[], Awaitable[None]] | None,
) -> LaterAnswer:
    """Answer with a run's final values once it is over; `leave` runs if the client leaves."""

    async def answer() -> bytes:
        return encode(await rest.joining.wait(key, run_id))

    return LaterAnswer(answer, rest.edge.sockets, rest.caller, headers=headers, on_disconnect=leave)


def canceller(rest: Rest, thread_id: str, run_id: str) -> Callable[[], Awaitable[None]]:
    """Return the call that cancels a run whose client leaves."""

    async def leave() -> None:
        await rest.edge.submit.cancel(rest.caller, thread_id, run_id, reason="disconnect")

    return leave


def as_created(started: Started, body: RunBody) -> dict[str, object]:
    """Return a run that the ledger does not know yet."""
    return new_run_json(
        started.run_id,
        started.thread_id,
        started.graph,
        body.metadata or {},
        body.multitask_strategy or "enqueue",
    )


def place_of(thread_id: str, run_id: str) -> str:
    """Return a run's address."""
    return f"/threads/{quote(thread_id, safe='')}/runs/{run_id}"


def names(values: list[str] | None) -> list[str] | None:
    """Return the names of a repeated query, or of one JSON list, as the JavaScript SDK sends.

    The Python SDK sends an empty value for none.
    """
    values = [value for value in values or () if value]
    if len(values) == 1 and values[0].startswith(("[", '"')):
        return json_list(values[0]) or values
    return values


def after_of(last_event_id: str | None) -> Cursor | None:
    """Return the cursor; "-1" stands for the beginning in the SDKs."""
    return None if last_event_id in (None, "", "-1") else Cursor.parse(last_event_id or "")
