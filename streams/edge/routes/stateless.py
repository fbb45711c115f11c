"""Runs on a new thread, and calls that name no thread."""

from __future__ import annotations

import uuid
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from starlette.responses import Response

from turnstream.schemas.errors import InvalidRequestError, NotFoundError
from turnstream.streams.edge.routes.bodies import SEARCH_LIMIT_MAX, CancelMany, Id, RunBody
from turnstream.streams.edge.routes.deps import Caller, JsonAnswer, answers, streams, thread_id_of
from turnstream.streams.edge.routes.following import (
    Joined,
    as_created,
    created,
    joined,
    streamed,
    waited,
)
from turnstream.streams.edge.routes.reading import JsonRoute
from turnstream.streams.edge.routes.runs import newest
from turnstream.streams.edge.routes.shapes import Run
from turnstream.streams.edge.routes.starting import start

router = APIRouter(tags=["stateless runs"], route_class=JsonRoute)
BATCH_MAX = 50


@router.post("/runs", responses=answers(Run, "the run"), summary="Start")
async def create_stateless(rest: Caller, body: RunBody) -> Response:
    """Start a run in the background, on a new thread."""
    return await created(rest, str(uuid.uuid4()), body, new_thread=True)


@router.post("/runs/stream", responses=streams("its events"), summary="Start and stream")
async def stream_stateless(rest: Caller, body: RunBody) -> Response:
    """Start a run on a new thread and stream it."""
    return await streamed(rest, str(uuid.uuid4()), body, new_thread=True)


@router.post("/runs/wait", responses=answers(Any, "the values"), summary="Start and wait")
async def wait_stateless(rest: Caller, body: RunBody) -> Response:
    """Start a run on a new thread and answer with its final values."""
    return await waited(rest, str(uuid.uuid4()), body, new_thread=True)


@router.post("/runs/batch", responses=answers(list[Run], "the runs"), summary="Start several")
async def batch(rest: Caller, body: list[RunBody]) -> JsonAnswer:
    """Start several runs, each on a new thread; the first that fails ends the call."""
    if len(body) > BATCH_MAX:
        raise InvalidRequestError(f"at most {BATCH_MAX} runs a call", code="batch_too_large")
    rest.edge.count(rest.caller, max(0, len(body) - 1))
    started = [
        await start(rest, str(uuid.uuid4()), one, new_thread=True, wait=False) for one in body
    ]
    return JsonAnswer([as_created(one, asked) for one, asked in zip(started, body, strict=True)])


@router.post(
    "/runs/cancel",
    status_code=204,
    response_class=Response,
    responses=answers(None, "Kafka has the commands", 204),
    summary="Cancel several",
)
async def cancel_many(
    rest: Caller,
    body: CancelMany,
    action: Annotated[Literal["interrupt", "rollback"], Query()] = "interrupt",
) -> Response:
    """Cancel the runs named, or the thread's runs of a status."""
    if not body.thread_id:
        raise InvalidRequestError("thread_id is missing", code="thread_missing", field="thread_id")
    key = await rest.key(body.thread_id)
    if body.run_ids:
        runs = [str((await rest.run(key, run_id)).turn_id) for run_id in body.run_ids]
    else:
        wanted = ("pending", "running") if body.status in (None, "all") else (body.status,)
        runs = [
            str(row.turn_id)
            async for row in newest(rest, key, SEARCH_LIMIT_MAX)
            if row.status in wanted
        ]
    for run_id in runs:
        await rest.edge.submit.cancel(
            rest.caller, body.thread_id, run_id, rollback=action == "rollback"
        )
    return Response(status_code=204)


@router.get("/runs/{run_id}/stream", responses=streams("its events"), summary="Stream")
async def join_stream_stateless(rest: Caller, run_id: Id, asked: Joined) -> Response:
    """Stream a run whose thread the caller does not know."""
    row = await rest.find_run(run_id)
    if row is None or row.rolled_back:
        raise NotFoundError("there is no such run", code="run_not_found")
    await rest.key(thread_id_of(row.thread_key))
    return joined(rest, row, asked)
