"""A thread's state and its history."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import Response  # noqa: TC002  FastAPI reads the annotation

from turnstream.streams.edge.routes.bodies import (
    SEARCH_LIMIT_MAX,
    CheckpointBody,
    HistoryBody,
    Id,
    Select,
    StateBody,
    Text,
)
from turnstream.streams.edge.routes.deps import Caller, JsonAnswer, Rest, answers
from turnstream.streams.edge.routes.listing import STATES_PAGE, Listing
from turnstream.streams.edge.routes.present import selected
from turnstream.streams.edge.routes.reading import JsonRoute
from turnstream.streams.edge.routes.shapes import ThreadState

router = APIRouter(tags=["threads"], route_class=JsonRoute)


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
    metadata: dict[str, object] | None = None,
    select: list[str] | None = None,
) -> Response:
    """Answer with a thread's past states, read in pages so that few are in memory at a time."""
    key = await rest.key(thread_id)
    listing = Listing()
    while True:
        page = min(STATES_PAGE, limit - len(listing))
        states = await rest.states.history(key, limit=page, before=before, ns=ns, metadata=metadata)
        for state in states:
            listing.add(selected(state, select))
        if len(states) < page or len(listing) >= limit:
            return listing.answer()
        before = states[-1]["checkpoint_id"] or ""
