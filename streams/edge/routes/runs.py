"""Runs of a thread: start, stream, wait, list, join, cancel.

A run is a turn. A start is a command on Kafka, and its answer waits at most `edge_start_wait_s` for
the turn's first record. A client whose stream or wait was cut goes on at its `Location`.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from turnstream.streams.edge.deliver.later_answer import attended
from turnstream.streams.edge.follow.patience import patiently
from turnstream.streams.edge.routes.bodies import (
    OFFSET_MAX,
    SEARCH_LIMIT_MAX,
    Id,
    RunBody,
    Select,
    Text,
)
from turnstream.streams.edge.routes.deps import Caller, JsonAnswer, Rest, answers, streams
from turnstream.streams.edge.routes.following import (
    Flag,
    Joined,
    canceller,
    created,
    joined,
    later,
    streamed,
    waited,
)
from turnstream.streams.edge.routes.listing import RUNS_PAGE, Listing
from turnstream.streams.edge.routes.present import run_json, selected
from turnstream.streams.edge.routes.reading import JsonRoute
from turnstream.streams.edge.routes.shapes import Run, RunStatus

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from turnstream.connectors.postgres.ledger.ledger import TurnRow

router = APIRouter(tags=["runs"], route_class=JsonRoute)
LOOK_THROUGH_MAX = 10_000
"""Newest runs of a thread that a status filter looks through."""


@router.post("/threads/{thread_id}/runs", responses=answers(Run, "the run"), summary="Start")
async def create(rest: Caller, thread_id: Text, body: RunBody) -> Response:
    """Start a run in the background."""
    return await created(rest, thread_id, body)


@router.post(
    "/threads/{thread_id}/runs/stream", responses=streams("its events"), summary="Start and stream"
)
async def stream(rest: Caller, thread_id: Text, body: RunBody) -> Response:
    """Start a run and stream it; each event's `id` is a cursor for `Last-Event-ID`."""
    return await streamed(rest, thread_id, body)


@router.post(
    "/threads/{thread_id}/runs/wait", responses=answers(Any, "the values"), summary="Start and wait"
)
async def wait(rest: Caller, thread_id: Text, body: RunBody) -> Response:
    """Start a run and answer with its final values, or `{"__error__": {error, message}}`."""
    return await waited(rest, thread_id, body)


@router.get("/threads/{thread_id}/runs", responses=answers(list[Run], "the runs"), summary="List")
async def list_runs(
    rest: Caller,
    thread_id: Text,
    *,
    limit: Annotated[int, Query(ge=1, le=SEARCH_LIMIT_MAX)] = 10,
    offset: Annotated[int, Query(ge=0, le=OFFSET_MAX)] = 0,
    status: Annotated[RunStatus | None, Query()] = None,
    select: Annotated[Select | None, Query()] = None,
) -> Response:
    """Return the thread's runs, newest first."""
    found = Listing()
    seen = skipped = 0
    async for row in newest(rest, await rest.key(thread_id)):
        seen += 1
        if row.rolled_back:
            continue
        run = run_json(row)
        if status is None or run["status"] == status:
            skipped += 1
            if skipped > offset:
                found.add(selected(run, select))
        if len(found) >= limit or seen >= LOOK_THROUGH_MAX + offset:
            break
    return found.answer()


@router.get("/threads/{thread_id}/runs/{run_id}", responses=answers(Run, "the run"), summary="Get")
async def get(rest: Caller, thread_id: Text, run_id: Id) -> JsonAnswer:
    """Return a run."""
    return JsonAnswer(run_json(await rest.run(await rest.key(thread_id), run_id)))


@router.get(
    "/threads/{thread_id}/runs/{run_id}/join",
    responses=answers(Any, "the values"),
    summary="Wait for its end",
)
async def join(
    rest: Caller, thread_id: Text, run_id: Id, *, cancel_on_disconnect: Flag = False
) -> Response:
    """Answer with a run's final values once it is over, as `wait` does."""
    key = await rest.key(thread_id)
    row = await rest.run(key, run_id)
    leave = canceller(rest, thread_id, str(row.turn_id)) if cancel_on_disconnect else None
    return later(rest, key, str(row.turn_id), {}, leave)


@router.get(
    "/threads/{thread_id}/runs/{run_id}/stream", responses=streams("its events"), summary="Stream"
)
async def join_stream(rest: Caller, thread_id: Text, run_id: Id, asked: Joined) -> Response:
    """Stream a run from its beginning, or from after `Last-Event-ID`."""

    async def found() -> TurnRow:
        return await rest.run(await rest.key(thread_id), run_id)

    return joined(rest, await patiently(found), asked)


@router.post(
    "/threads/{thread_id}/runs/{run_id}/cancel",
    status_code=204,
    response_class=Response,
    responses=answers(None, "Kafka has the command, or (`wait`) the run is over", 204),
    summary="Cancel",
)
async def cancel(
    rest: Caller,
    request: Request,
    thread_id: Text,
    run_id: Id,
    *,
    wait: Flag = False,
    action: Annotated[Literal["interrupt", "rollback"], Query()] = "interrupt",
    reason: Annotated[Id, Query()] = "",
) -> Response:
    """Stop a run and keep its messages, or (`rollback`) nothing; no effect on an ended run."""
    if wait:
        rest.edge.sockets.check_room(rest.caller)
    key = await rest.key(thread_id)
    row = await rest.run(key, run_id)
    rollback = action == "rollback"
    await rest.edge.submit.cancel(
        rest.caller, thread_id, str(row.turn_id), reason=reason, rollback=rollback
    )
    if wait:
        ended = partial(rest.joining.ended, key, str(row.turn_id))
        await attended(request, rest.edge.sockets, rest.caller, ended)
    return Response(status_code=204)


async def newest(rest: Rest, key: str, limit: int | None = None) -> AsyncIterator[TurnRow]:
    """Yield a thread's turns, newest first, read in pages because their bodies may be large."""
    before: int | None = None
    seen = 0
    while rows := await rest.ledger.turns_of(key, RUNS_PAGE, before=before):
        for row in rows:
            if limit is not None and seen >= limit:
                return
            seen += 1
            yield row
        before = rows[-1].seq
