"""Threads: make, find, change, delete."""

from __future__ import annotations

import asyncio
import uuid
from typing import TYPE_CHECKING, Annotated

from fastapi import APIRouter, Header
from starlette.responses import Response

from turnstream.schemas.errors import ConflictError, InvalidRequestError, NotFoundError
from turnstream.schemas.ids import check_thread_id, thread_key
from turnstream.schemas.records.command_rules import check_metadata
from turnstream.streams.edge.ask.run_request import refuse
from turnstream.streams.edge.routes.bodies import (
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
    Listing,
    too_large,
)
from turnstream.streams.edge.routes.present import selected, thread_json
from turnstream.streams.edge.routes.reading import JsonRoute
from turnstream.streams.edge.routes.shapes import Thread

if TYPE_CHECKING:
    from collections.abc import Mapping

    from turnstream.connectors.postgres.stores.threads import ThreadInfo
    from turnstream.streams.edge.surfaces.state_json import StateJson

router = APIRouter(tags=["threads"], route_class=JsonRoute)


@router.post("/threads", responses=answers(Thread, "the thread"), summary="Create")
async def create(rest: Caller, body: ThreadBody | None = None) -> JsonAnswer:
    """Make a thread; 409 if its id exists, unless `if_exists` is `do_nothing`."""
    body = body or ThreadBody()
    refuse(supersteps=body.supersteps, ttl=body.ttl)
    key = thread_key(rest.caller.tenant, check_thread_id(body.thread_id or str(uuid.uuid4())))
    check_metadata(body.metadata or {}, rest.edge.settings.metadata_bytes_max)
    made = await rest.threads.create(key, body.metadata or {})
    if not made and body.if_exists != "do_nothing":
        raise ConflictError("a thread of this id exists already", code="thread_exists")
    return await _answer(rest, await rest.info(key))


@router.post("/threads/search", responses=answers(list[Thread], "the threads"), summary="Search")
async def search(rest: Caller, body: ThreadSearch | None = None) -> Response:
    """Return the caller's threads for which all conditions hold, newest first."""
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

    async def one(info: ThreadInfo) -> Mapping[str, object]:
        state = await _state_of(rest, info) if with_state else None
        return selected(thread_json(info, state), body.select)

    listing = Listing()
    for start in range(0, len(found), STATES_AT_ONCE):
        for thread in await asyncio.gather(*map(one, found[start : start + STATES_AT_ONCE])):
            listing.add(thread)
    return listing.answer()


@router.post("/threads/count", responses=answers(int, "how many"), summary="Count")
async def count(rest: Caller, body: ThreadFilter | None = None) -> JsonAnswer:
    """Return the number of the caller's threads for which all conditions hold."""
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

    The log keeps the thread's records until their retention ends.
    """
    key = await rest.key(thread_id)
    info = await rest.info(key)
    if info.status == "busy":
        raise ConflictError("a run of the thread is not over: cancel it first", code="thread_busy")
    await rest.edge.saver.adelete_thread(key)
    await rest.threads.delete(key)
    rest.edge.submit.forget(key)
    return Response(status_code=204)


async def _answer(rest: Rest, info: ThreadInfo) -> JsonAnswer:
    return JsonAnswer(thread_json(info, await _state_of(rest, info)))


async def _state_of(rest: Rest, info: ThreadInfo) -> StateJson | None:
    """Return the latest state; None if this edge cannot read it, or if the thread never ran."""
    if info.graph is None:
        return None
    try:
        return await rest.states.state(info.thread_key)
    except (ConflictError, NotFoundError, InvalidRequestError):
        return None
