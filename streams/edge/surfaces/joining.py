"""Following a run to its end: its events as a stream, its final values, or its terminal.

A run is read from the log through the feed, and its states from the checkpoints. If the log no
longer holds a run's terminal, the ledger's outcome ends the run here.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import UUID

from turnstream.schemas.errors import ConflictError, NotFoundError
from turnstream.schemas.ids import split_thread_key
from turnstream.schemas.records.events import Event, InputResolved
from turnstream.schemas.records.results import Outcome
from turnstream.streams.edge.deliver.event_stream import sse
from turnstream.streams.edge.follow.cursor import RECORD_EVENTS_MAX, Cursor
from turnstream.streams.edge.follow.places import Begins, Reset
from turnstream.streams.edge.follow.surface import shown
from turnstream.streams.edge.surfaces.encoding import encode
from turnstream.streams.edge.surfaces.run_events import RunEvent, StateWanted, TaskWanted
from turnstream.streams.edge.surfaces.run_projection import RunProjection
from turnstream.streams.edge.surfaces.run_states import state_events
from turnstream.streams.edge.surfaces.task_values import TaskValues

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Sequence

    from turnstream.connectors.postgres.ledger.ledger import Ledger
    from turnstream.streams.edge.follow.feed import Feed
    from turnstream.streams.edge.follow.reader import Step
    from turnstream.streams.edge.surfaces.run_events import RunItem
    from turnstream.streams.edge.surfaces.state_json import StateJson
    from turnstream.streams.edge.surfaces.states import States

QUIET_S = 2.0
"""Seconds without a record after which the ledger is asked whether the run is over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Joining:
    """Follows runs, for the routes."""

    feed: Feed
    ledger: Ledger
    states: States
    quiet_s: float = QUIET_S

    async def stream(
        self, key: str, projection: RunProjection, after: Cursor | None = None
    ) -> AsyncGenerator[bytes, None]:
        """Yield the run's server-sent events after a cursor.

        `reset` comes first if the cursor is void, or if the log has lost the run's beginning.
        """
        async with aclosing(self.steps(key, projection.run_id, after)) as steps:
            async for step in steps:
                if isinstance(step, Reset):
                    after = None
                    for item in projection.reset():
                        for event in await self._events(key, projection, item):
                            yield sse(event.event, encode(event.data), step.cursor.seq)
                    continue
                if isinstance(step, Outcome):
                    for lost in projection.lost(step):
                        for event in await self._events(key, projection, lost):
                            yield sse(event.event, encode(event.data))
                    return
                for k, item in enumerate(shown(projection, step)):
                    k_max = min(k, RECORD_EVENTS_MAX - 1)
                    place = Cursor(self.feed.incarnation, step.offset, k_max)
                    if after is None or place > after:
                        for event in await self._events(key, projection, item):
                            yield sse(event.event, encode(event.data), place.seq)
                if projection.done:
                    return

    async def wait(self, key: str, run_id: str) -> object:
        """Return the run's final values once it is over.

        They have `__interrupt__` if the run asks something. A failed run gives `__error__` only.
        """
        projection = RunProjection(run_id, frozenset({"values"}))
        items: Sequence[RunItem] = ()
        async with aclosing(self.steps(key, run_id)) as steps:
            async for step in steps:
                if isinstance(step, Reset):
                    continue
                if isinstance(step, Outcome):
                    items = projection.lost(step)
                else:
                    items = shown(projection, step)
                if projection.done:
                    break
        for item in items:
            if isinstance(item, RunEvent) and item.event == "error":
                return {"__error__": item.data}
        final = StateWanted(asked=projection.questions, final=True)
        state = await self.states.of_turn(key, run_id)
        (event,) = state_events(final, projection.modes, state)
        return event.data

    async def ended(self, key: str, run_id: str) -> Event | Outcome:
        """Return the run's terminal once it is there; its outcome if the log lost the terminal."""
        async with aclosing(self.steps(key, run_id)) as steps:
            async for step in steps:
                if isinstance(step, Outcome):
                    return step
                if isinstance(step, Reset):
                    continue
                if isinstance(step.record, Event) and step.record.terminal:
                    return step.record
        raise AssertionError("a watch does not end")

    async def steps(
        self, key: str, run_id: str, after: Cursor | None = None
    ) -> AsyncGenerator[Step | Reset | Outcome, None]:
        """Yield the run's records, each once and in order; its outcome if they do not come.

        A `Reset` comes first if the cursor is void or the run's beginning is lost.
        """
        last, quiet = -1, 0
        async with self.feed.watch(key, after, from_turn=run_id) as watch:
            reading = aiter(watch)
            coming = asyncio.ensure_future(_next(reading))
            try:
                while True:
                    await asyncio.wait((coming,), timeout=self.quiet_s)
                    if not coming.done():
                        if not watch.live:  # it still catches up: that is not quiet
                            continue
                        outcome = await self._closed(key, run_id)
                        quiet = quiet + 1 if outcome is not None else 0
                        # its terminal may be on its way: ask twice
                        if outcome is not None and quiet > 1:
                            yield outcome
                            return
                        continue
                    step = coming.result()
                    coming = asyncio.ensure_future(_next(reading))
                    if isinstance(step, Begins):
                        continue
                    if isinstance(step, Reset):
                        yield step
                        continue
                    # a watch that fell behind repeats the record it continues from
                    if step.offset <= last:
                        continue
                    last = step.offset
                    record = step.record
                    mine = isinstance(record, Event) and record.turn_id == run_id
                    if mine and not isinstance(record, InputResolved):
                        quiet = 0
                        yield step
            finally:
                coming.cancel()
                await asyncio.wait((coming,))

    async def _events(self, key: str, projection: RunProjection, item: RunItem) -> list[RunEvent]:
        if isinstance(item, RunEvent):
            return [item]
        if isinstance(item, TaskWanted):
            await self._fill(key, projection.run_id, item)
            return []
        state = await self._state(key, projection.run_id, item)
        if state is None:
            return []
        if item.checkpoint_id and item.values and not item.ns:
            projection.shown = item.checkpoint_id
        return state_events(item, projection.modes, state)

    async def _fill(self, key: str, run_id: str, item: TaskWanted) -> None:
        """Fill in a task's large input or result from the state."""
        at = StateWanted(item.checkpoint_id, before=not item.checkpoint_id, ns=item.ns)
        state = await self._state(key, run_id, at)
        if state is None:
            return
        values = TaskValues(self.states)
        if item.sent:
            item.about["input"] = await values.sent(key, state, item.ns, item.task_id)
            return
        if item.update is None:
            item.about["input"] = await values.given(key, state, item.ns, item.node)
            return
        checkpoint_id = state["checkpoint_id"] or ""
        result = await values.written(key, checkpoint_id, item.ns, item.task_id)
        item.about["result"] = item.update[item.node] = result

    async def _state(self, key: str, run_id: str, item: StateWanted) -> StateJson | None:
        states = self.states
        try:
            if item.checkpoint_id:
                return await states.committed(key, item.checkpoint_id, ns=item.ns)
            if item.before:
                return await states.before_turn(key, run_id, ns=item.ns)
            return await states.of_turn(key, run_id, ns=item.ns)
        except ConflictError:  # this edge does not have the graph, so it cannot read the state
            return None
        except NotFoundError:  # a nested graph that a node calls in its own code
            return None

    async def _closed(self, key: str, run_id: str) -> Outcome | None:
        row = await self.ledger.turn(split_thread_key(key)[0], UUID(run_id))
        return row.outcome if row is not None and row.closed_at is not None else None


async def _next(reading: AsyncIterator[Step | Reset | Begins]) -> Step | Reset | Begins:
    return await anext(reading)
