"""Threads: make, find, change, delete; their state and history."""

from __future__ import annotations

import asyncio
import uuid
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Header, Query
from starlette.responses import Response

from turnstream.schemas.errors import ConflictError, InvalidRequestError, NotFoundError
from turnstream.schemas.ids import assistant_id_of, check_thread_id, thread_key
from turnstream.schemas.records.command_rules import check_metadata
from turnstream.streams.edge.ask.run_request import refuse
from turnstream.streams.edge.routes.bodies import (
    SEARCH_LIMIT_MAX,
    CheckpointBody,
    HistoryBody,
    Id,
    Select,
    StateBody,
    Text,
    ThreadBody,
    ThreadFilter,
    ThreadPatch,
    ThreadSearch,
)
from turnstream.streams.edge.routes.deps import Caller, JsonAnswer, Rest, answers
from turnstream.streams.edge.routes.listing import (
    ANSWER_BYTES_MAX,
    STATES_AT_ONCE,
    STATES_PAGE,
    Listing,
    too_large,
)
from turnstream.streams.edge.routes.present import selected, thread_json
from turnstream.streams.edge.routes.reading import JsonRoute
from turnstream.streams.edge.routes.shapes import Thread, ThreadState

if TYPE_CHECKING:
    from turnstream.connectors.postgres.stores.threads import ThreadInfo

router = APIRouter(tags=["threads"], route_class=JsonRoute)


@router.post("/threads", responses=answers(Thread, "the thread"), summary="Create")
async def create(rest: Caller, body: ThreadBody | None = None) -> JsonAnswer:
    """Make a thread. One of the same id is a conflict (409), unless `if_exists` is `do_nothing`."""
    body = body or ThreadBody()
    refuse(supersteps=body.supersteps, ttl=body.ttl)
    key = thread_key(rest.caller.tenant, check_thread_id(body.thread_id or str(uuid.uuid4())))
    check_metadata(body.metadata or {}, rest.edge.settings.metadata_bytes_max)
    made = await rest.threads.create(key, body.metadata or {})
    if not made and body.if_exists != "do_nothing":
        raise ConflictError("there is a thread of this id already", code="thread_exists")
    return await _answer(rest, await rest.info(key))


@router.post("/threads/search", responses=answers(list[Thread], "the threads"), summary="Search")
async def search(rest: Caller, body: ThreadSearch | None = None) -> Response:
    """Return the caller's threads for which all conditions hold, the newest first."""
    body = body or ThreadSearch()
    refuse(values=body.values, extract=body.extract)
    found = await rest.threads.search(
        rest.caller.tenant,
        metadata=body.metadata,
        status=body.status,
        ids=body.ids,
        limit=body.limit or 10,
        offset=body.offset or 0,
        sort_by=body.sort_by or "created_at",
        descending=body.sort_order != "asc",
        bytes_max=ANSWER_BYTES_MAX,
        with_metadata=body.select is None or "metadata" in body.select,
    )
    if found is None:
        raise too_large()
    with_state = body.select is None or not {"values", "interrupts"}.isdisjoint(body.select)

    async def one(info: ThreadInfo) -> dict[str, Any]:
        state = await _state_of(rest, info) if with_state else None
        return selected(thread_json(info, state), body.select)

    listing = Listing()
    for start in range(0, len(found), STATES_AT_ONCE):
        for thread in await asyncio.gather(*map(one, found[start : start + STATES_AT_ONCE])):
            listing.add(thread)
    return listing.answer()


@router.post("/threads/count", responses=answers(int, "how many"), summary="Count")
async def count(rest: Caller, body: ThreadFilter | None = None) -> JsonAnswer:
    """Return how many of the caller's threads there are for which all conditions hold."""
    body = body or ThreadFilter()
    refuse(values=body.values)
    return JsonAnswer(
        await rest.threads.count(rest.caller.tenant, metadata=body.metadata, status=body.status)
    )


@router.get("/threads/{thread_id}", responses=answers(Thread, "the thread"), summary="Get")
async def get(rest: Caller, thread_id: Text) -> JsonAnswer:
    """Return a thread with its latest values."""
    return await _answer(rest, await rest.info(await rest.key(thread_id)))


@router.patch("/threads/{thread_id}", responses=answers(Thread, "the thread"), summary="Update")
async def update(
    rest: Caller,
    thread_id: Text,
    body: ThreadPatch | None = None,
    prefer: Annotated[str | None, Header()] = None,
) -> Response:
    """Merge metadata into the thread's."""
    body = body or ThreadPatch()
    refuse(ttl=body.ttl)
    key = await rest.key(thread_id)
    metadata, bytes_max = body.metadata or {}, rest.edge.settings.metadata_bytes_max
    check_metadata(metadata, bytes_max)
    await rest.threads.ensure(key, metadata, bytes_max=bytes_max)
    if prefer is not None and "return=minimal" in prefer:
        return Response(status_code=204)
    return await _answer(rest, await rest.info(key))


@router.delete(
    "/threads/{thread_id}",
    status_code=204,
    response_class=Response,
    responses=answers(None, "it is gone", 204),
    summary="Delete",
)
async def delete(rest: Caller, thread_id: Text) -> Response:
    """Delete a thread and its checkpoints; 409 while a run is not over.

    The log keeps its records until its retention is over.
    """
    key = await rest.key(thread_id)
    info = await rest.info(key)
    if info.status == "busy":
        raise ConflictError("a run of the thread is not over: cancel it first", code="thread_busy")
    await rest.edge.saver.adelete_thread(key)
    await rest.threads.delete(key)
    rest.edge.submit.forget(key)
    return Response(status_code=204)


@router.get(
    "/threads/{thread_id}/state", responses=answers(ThreadState, "the state"), summary="State"
)
async def get_state(
    rest: Caller,
    thread_id: Text,
    subgraphs: Annotated[bool, Query()] = False,
    select: Annotated[Select | None, Query()] = None,
) -> JsonAnswer:
    """Return the thread's latest state."""
    state = await rest.states.state(await rest.key(thread_id), subgraphs=subgraphs)
    return JsonAnswer(selected(state, select))


@router.get(
    "/threads/{thread_id}/state/{checkpoint_id}",
    responses=answers(ThreadState, "the state"),
    summary="State at a checkpoint",
)
async def get_state_at(
    rest: Caller,
    thread_id: Text,
    checkpoint_id: Id,
    subgraphs: Annotated[bool, Query()] = False,
    select: Annotated[Select | None, Query()] = None,
) -> JsonAnswer:
    """Return the thread's state at a checkpoint."""
    key = await rest.key(thread_id)
    state = await rest.states.state(key, checkpoint_id=checkpoint_id, subgraphs=subgraphs)
    return JsonAnswer(selected(state, select))


@router.post(
    "/threads/{thread_id}/state/checkpoint",
    responses=answers(ThreadState, "the state"),
    summary="State at a checkpoint (of a nested graph)",
)
async def post_state(rest: Caller, thread_id: Text, body: StateBody) -> JsonAnswer:
    """Return the thread's state at a checkpoint, of a nested graph if it has a namespace."""
    key = await rest.key(thread_id)
    state = await rest.states.state(
        key,
        checkpoint_id=body.checkpoint.checkpoint_id or "",
        ns=body.checkpoint.checkpoint_ns or "",
        subgraphs=bool(body.subgraphs),
    )
    return JsonAnswer(selected(state, body.select))


@router.get(
    "/threads/{thread_id}/history",
    responses=answers(list[ThreadState], "the states"),
    summary="History",
)
async def get_history(
    rest: Caller,
    thread_id: Text,
    limit: Annotated[int, Query(ge=1, le=SEARCH_LIMIT_MAX)] = 10,
    before: Annotated[Id | None, Query()] = None,
) -> Response:
    """Return the thread's past states, newest first."""
    return await past_states(rest, thread_id, limit=limit, before=before or "")


@router.post(
    "/threads/{thread_id}/history",
    responses=answers(list[ThreadState], "the states"),
    summary="History, filtered",
)
async def post_history(rest: Caller, thread_id: Text, body: HistoryBody | None = None) -> Response:
    """Return the thread's past states for which all conditions hold, newest first."""
    body = body or HistoryBody()
    before = body.before
    return await past_states(
        rest,
        thread_id,
        limit=body.limit or 10,
        before=(before.checkpoint_id or "") if isinstance(before, CheckpointBody) else before or "",
        ns=(body.checkpoint.checkpoint_ns or "") if body.checkpoint else "",
        metadata=body.metadata,
        select=body.select,
    )


async def past_states(
    rest: Rest,
    thread_id: str,
    *,
    limit: int,
    before: str,
    ns: str = "",
    metadata: dict[str, Any] | None = None,
    select: list[str] | None = None,
) -> Response:
    """Answer with a thread's past states, read in pages so that few are in memory at once."""
    key = await rest.key(thread_id)
    listing = Listing()
    while True:
        page = min(STATES_PAGE, limit - len(listing))
        states = await rest.states.history(key, limit=page, before=before, ns=ns, metadata=metadata)
        for state in states:
            listing.add(selected(state, select))
        if len(states) < page or len(listing) >= limit:
            return listing.answer()
        before = states[-1]["checkpoint_id"]


async def make_if_needed(rest: Rest, thread_id: str, *, create: bool, graph: str) -> str:
    """Return the key of a thread that is about to run a graph, made if it may be.

    Raises `NotFoundError` (404), `InvalidRequestError` (422), and `UnavailableError` (503) where no
    run is taken: before the database is asked, which is busy then.
    """
    key = thread_key(rest.caller.tenant, check_thread_id(thread_id))
    rest.edge.submit.check_room()
    if not create:
        await rest.key(thread_id)
    about = {"graph_id": graph, "assistant_id": assistant_id_of(graph)}
    await rest.threads.ensure(key, about)
    return key


async def _answer(rest: Rest, info: ThreadInfo) -> JsonAnswer:
    return JsonAnswer(thread_json(info, await _state_of(rest, info)))


async def _state_of(rest: Rest, info: ThreadInfo) -> dict[str, Any] | None:
    """Return the latest state; None where this edge cannot read it, or nothing ever ran."""
    if info.graph is None:
        return None
    try:
        return await rest.states.state(info.thread_key)
    except (ConflictError, NotFoundError, InvalidRequestError):
        return None
