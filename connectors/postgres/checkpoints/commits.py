"""The saver's side of one attempt: what is to be committed, in which order, and what it keeps.

LangGraph hands checkpoints and writes over as background jobs. A `Session` puts them in one queue
and commits the queue's front in one fenced statement at a time, each only after the log has
acknowledged what had been said until then (W5, W5n, W6). It writes through a `Send`.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import msgspec

from turnstream.connectors.postgres.checkpoints.statements import End, Fence, Rows
from turnstream.schemas.errors import (
    DatabaseUnavailableError,
    FencedError,
    TurnstreamError,
    UnstorableStateError,
)
from turnstream.schemas.fold.fold import add_keep, covers
from turnstream.schemas.ids import path_of_namespace
from turnstream.schemas.records.events import CheckpointSaved, Event, Keep

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
    from uuid import UUID

    from turnstream.connectors.postgres.ledger.tool_calls import LedgerToolCalls
    from turnstream.schemas.records.results import Outcome

_SESSION: ContextVar[Session | None] = ContextVar("turnstream_session", default=None)


class Question(NamedTuple):
    """What a task stopped with: its path, the namespace of its graph, what it asks.

    `schema` is the JSON schema of its answer, if the graph gave one; `interrupt` LangGraph's own
    object.
    """

    path: str
    namespace: str
    value: Any
    schema: dict[str, Any] | None = None
    interrupt: Any = None


class LogPosition(Protocol):
    """What the session needs of the turn's emitter."""

    @property
    def n(self) -> int:
        """The last position given out; reading it seals what is pending."""
        ...

    @property
    def first_off(self) -> int | None:
        """The log's offset of the turn's first record, once it is acknowledged."""
        ...

    async def acked(self, n: int) -> None:
        """Wait until everything up to `n` is acknowledged; raises if that cannot happen any more.

        The attempt's `AttemptStarted` counts as said before everything else.
        """
        ...

    def emit(self, event_type: type[Event], *, path: str, **fields: Any) -> int:
        """Take one event and return its `n`."""
        ...


HELD_S = 0.1
"""How long a checkpoint is held back before it is committed by itself."""


@dataclass(eq=False, slots=True)
class Item:
    """One saver call: its rows, and what its commit means for `keep`.

    `n` is -1 until it is known. `keep` is the path that the commit keeps; `root` a checkpoint of
    the root graph, which keeps everything. `claimed`: a checkpoint took these writes along.
    """

    ns: str
    rows: Rows
    n: int = -1
    keep: str = ""
    root: bool = False
    checkpoint_id: str = ""
    holds: bool = False
    task: bool = False
    claimed: bool = False
    done: bool = False


def advance(
    keep: tuple[Keep, ...], keep_n: int, items: Iterable[Item]
) -> tuple[tuple[Keep, ...], int]:
    """Return `keep` and `keep_n` after these commits, in order (W5, W5n, W6)."""
    for item in items:
        if item.root:
            keep, keep_n = (), item.n
        elif item.keep:
            keep = add_keep(keep, Keep(item.keep, item.n))
    return keep, keep_n


@dataclass(eq=False, slots=True, kw_only=True)
class Session:
    """One attempt's hold on its turn, as far as commits go.

    `keep_n`, `high_n`, `keep` are the claim's. `on_cancel` is told the thread's cancel flag when a
    statement returns one; `on_lost` is told, once, why nothing can be committed any more: the
    attempt then closes its emitter and cancels the run, because LangGraph would go on. `fresh`:
    the thread has no checkpoint, so the first load is skipped.
    """

    send: Callable[[Rows, Fence, End | None], Awaitable[tuple[str | None] | None]]
    thread_key: str
    tenant: str
    turn_id: UUID
    epoch: int
    log: LogPosition
    keep_n: int = 0
    high_n: int = 0
    keep: tuple[Keep, ...] = ()
    fresh: bool = False
    on_cancel: Callable[[str], None] | None = None
    on_lost: Callable[[TurnstreamError], None] | None = None
    gate: Callable[[str], Awaitable[None]] | None = None
    resolve: Callable[[str], str] | None = None
    is_last: Callable[[Any], bool] | None = None
    carried: Callable[[int, Sequence[Keep]], bytes | None] | None = None
    stepped_at: float = field(default_factory=time.monotonic)

    asked: dict[str, Question] = field(default_factory=dict)
    askers: dict[str, str] = field(default_factory=dict)
    applied: bool = False
    lost: TurnstreamError | None = None
    broken: TurnstreamError | None = None
    stopped: bool = False
    statements: int = 0
    tool_calls: LedgerToolCalls = field(init=False)
    _queue: list[Item] = field(default_factory=list)
    _turnstile: asyncio.Lock = field(default_factory=asyncio.Lock)
    _finished: set[str] = field(default_factory=set)
    _steps: dict[str, int] = field(default_factory=dict)
    _stored: set[str] = field(default_factory=set)
    _held: asyncio.TimerHandle | None = None
    _committing: asyncio.Task[None] | None = None

    @contextmanager
    def bound(self) -> Iterator[Session]:
        """Make this the session of every saver call made inside, tasks started there included."""
        token = _SESSION.set(self)
        try:
            yield self
        finally:
            _SESSION.reset(token)

    def let_go(self) -> None:
        """Refer to the attempt no longer, which refers to this: it is over.

        Else a turn would stay in memory until a full garbage collection.
        """
        self.on_cancel = self.on_lost = self.gate = self.resolve = None
        self.carried = self.is_last = None
        del self.tool_calls

    @staticmethod
    def of(thread_id: str) -> tuple[Session | None, str]:
        """Return the session bound here, if it is this thread's, and the thread's key.

        Graphs know a thread by the id that its client has. Inside of a session the tenant is the
        session's, whatever a graph asks for; outside, `thread_id` is a key already.
        """
        session = _SESSION.get()
        if session is None:
            return None, thread_id
        if session.thread_key in (thread_id, f"{session.tenant}/{thread_id}"):
            return session, session.thread_key
        return None, f"{session.tenant}/{thread_id}"

    # What the saver calls.

    def check(self) -> None:
        """Raise what ended the session, if anything did."""
        if self.lost is not None:
            raise self.lost
        if self.broken is not None:
            raise self.broken

    def path_of(self, ns: str) -> str:
        """Return the path of a LangGraph namespace."""
        return path_of_namespace(ns) if self.resolve is None else self.resolve(ns)

    def pending(self, ns: str | None = None) -> bool:
        """Tell whether something waits to be committed, in one namespace or at all."""
        return any(ns is None or item.ns == ns for item in self._queue)

    def seen(
        self, ns: str, step: int, task_ids: Iterable[str], messages: Iterable[str] = ()
    ) -> None:
        """Note a loaded checkpoint's step, the tasks that it holds ordinary writes of, messages."""
        self._steps[ns] = step
        self._finished.update(task_ids)
        self._stored.update(messages)

    async def put(self, item: Item, *, parent: str, step: int, source: str, last: bool) -> None:
        """Commit a checkpoint, with its step's writes, or hold it back.

        Held back are the input's checkpoint and the one right after it (nothing of theirs is
        worth a statement: a crash applies the same input again), and the one after which nothing
        runs (its transaction is the outcome's). Whatever is committed next takes them along; in a
        step that takes longer than `HELD_S` they are committed by themselves, because readers are
        shown the state that they announce.
        """
        self._steps[item.ns] = step
        if item.root:
            self.stepped_at = time.monotonic()
            self.applied = self.applied or source != "input"
        step_writes = [
            write
            for write in self._queue
            if write.task and write.ns == item.ns and write.checkpoint_id == parent
        ]
        for write in step_writes:
            write.claimed = True
        if item.ns and self.gate is not None:
            # what a nested graph's tasks said reaches us through the stream of the graph around it
            for write in step_writes:
                if write.keep:
                    await self.gate(write.keep.rpartition("|")[2])
        self.log.emit(
            CheckpointSaved,
            path="" if not item.ns else item.keep,
            checkpoint_id=item.checkpoint_id,
            parent_id=parent,
            step=step,
            ns=item.ns,
            source=source,
        )
        item.n = self.log.n
        for write in step_writes:
            write.n = item.n
        begun = any(
            put.holds and put.ns == item.ns and put.checkpoint_id == parent for put in self._queue
        )
        item.holds = source == "input"
        self._queue.append(item)
        if item.holds or begun or last:
            if self._held is None and not last:
                self._held = asyncio.get_running_loop().call_later(HELD_S, self._commit_held)
            return
        await self.log.acked(item.n)
        await self._commit(item)

    def _commit_held(self) -> None:
        self._held = None
        if self._queue and not self.stopped and self.broken is None:
            self._committing = asyncio.create_task(self.flush())
            self._committing.add_done_callback(self._committed)

    def _committed(self, task: asyncio.Task[None]) -> None:
        self._committing = None  # its context refers to this session: a circle
        _look_at(task)

    async def write(self, item: Item, task_id: str) -> None:
        """Commit a task's writes, unless a checkpoint takes them along; never waits for one."""
        self._queue.append(item)
        if any(
            put.holds and put.ns == item.ns and put.checkpoint_id == item.checkpoint_id
            for put in self._queue
        ):
            item.n = self.log.n
            return
        if self.gate is not None and item.keep:
            await self.gate(task_id)
        if item.claimed:
            return
        item.n = self.log.n
        for _ in range(3):  # the step's checkpoint, if this was its last task, starts by then
            await asyncio.sleep(0)
            if item.claimed:
                return
        await self.log.acked(item.n)
        if not item.claimed:
            await self._commit(item)

    async def before_load(self, ns: str) -> bool:
        """Commit what a reader of `ns` must see; returns False if there is nothing to load."""
        if not self.stopped and self.pending(ns):
            await self.flush()
        return not (self.fresh and not ns and not self.statements)

    # What the runner calls (graph/ports.py: Commits).

    def finished(self, task_id: str) -> bool:
        """Tell whether a loaded checkpoint holds this task's writes: it is not run again (W4)."""
        return task_id in self._finished

    def stored(self, message_id: str) -> bool:
        """Tell whether a nested graph's loaded checkpoint holds this message: it was said."""
        return message_id in self._stored

    def step_of(self, namespace: str) -> int:
        """Return the step of a namespace's last checkpoint, -1 without one."""
        return self._steps.get(namespace, -1)

    async def settled(self, path: str) -> Sequence[Keep]:
        """Wait for commits under `path`; return the keep entries at or under it."""
        await self.flush()
        return tuple(entry for entry in self.keep if covers(path, entry.path))

    def stop(self) -> None:
        """Ignore what LangGraph still hands over: its tasks are being stopped (W7)."""
        self.stopped = True

    async def flush(self) -> None:
        """Commit everything whose position is known."""
        self.check()
        n = self.log.n
        if self._queue:
            await self.log.acked(n)
        await self._commit(None, n)

    # What the attempt calls.

    async def commit_outcome(
        self, outcome: Outcome, closing: Iterable[Item] = (), *, reopen: bytes | None = None
    ) -> None:
        """Write the outcome, with what is held back and `closing`, in one transaction (W7).

        Everything said until this call is acknowledged first. Afterwards the turn has its outcome,
        `keep_n = high_n = n`, and the thread its open interrupt (`reopen`: the one that was open
        before the turn) or none. A turn that was rolled back leaves nothing in the state.

        Raises `CancelAheadError` if the turn was told to stop in a way that the outcome would not
        honour: a question that nobody may be asked any more, anything but a rollback. Nothing is
        written then; call again with what the cause asks for.
        """
        if self.lost is not None:
            raise self.lost
        self.stopped = True
        if self._held is not None:
            self._held.cancel()
            self._held = None
        n = self.log.n
        rolls_back = outcome.status == "cancelled" and outcome.code == "rollback"
        if self.broken is not None or rolls_back:
            self._queue.clear()
        self._queue.extend(closing)
        for item in self._queue:
            if item.n < 0:
                item.n = n
        await self.log.acked(n)
        asks = outcome.status == "interrupted"
        times = [asked.expires_at for asked in outcome.interrupts if asked.expires_at]
        end = End(
            tenant=self.tenant,
            turn_id=self.turn_id,
            outcome=msgspec.json.encode(outcome),
            interrupt=_interrupt(self.turn_id, outcome, times, self.askers) if asks else reopen,
            yields_to="any" if asks else "" if rolls_back or reopen else "rollback",
            expires_at=min(times, default=0),
            rolls_back=rolls_back,
            reopens=reopen is not None,
        )
        await self._commit(None, n, end)

    # One statement at a time.

    async def _commit(self, item: Item | None, n: int = -1, end: End | None = None) -> None:
        # in a task of its own: LangGraph may cancel the caller, a statement under way must end
        task = asyncio.create_task(self._commit_front(item, n, end))
        task.add_done_callback(_look_at)
        await asyncio.shield(task)

    async def _commit_front(self, item: Item | None, n: int, end: End | None) -> None:
        async with self._turnstile:
            if self.lost is not None:
                raise self.lost
            if end is None:
                self.check()
            if item is not None:
                if item.done:
                    return
                n = item.n
            batch = [waiting for waiting in self._queue if 0 <= waiting.n <= n]
            if not batch and end is None:
                return
            await self._send_batch(batch, n, end)

    async def _send_batch(self, batch: list[Item], n: int, end: End | None) -> None:
        keep, keep_n = ((), n) if end is not None else advance(self.keep, self.keep_n, batch)
        high_n = max(self.high_n, n if end is not None else max(item.n for item in batch))
        rows = Rows()
        for item in batch:
            rows.extend(item.rows)
        fence = Fence(
            thread_key=self.thread_key,
            epoch=self.epoch,
            keep_n=keep_n,
            high_n=high_n,
            keep=msgspec.json.encode(keep),
            first_off=self.log.first_off,
            carried=self.carried(keep_n, keep) if self.carried is not None else None,
        )
        self.statements += 1
        try:
            found = await self.send(rows, fence, end)
        except DatabaseUnavailableError as error:
            # whether it was committed is not known: nothing more is sent under this epoch
            self.lose(error)
            raise self.lost or error from error
        except UnstorableStateError as error:
            self.broken = error
            raise
        if found is None:
            self.lose(FencedError())
            raise FencedError
        self.keep, self.keep_n, self.high_n = keep, keep_n, high_n
        for item in batch:
            item.done = True
        self._queue = [item for item in self._queue if not item.done]
        if found[0] is not None and self.on_cancel is not None:
            self.on_cancel(found[0])

    def lose(self, error: TurnstreamError) -> None:
        """End the session: nothing can be committed under this epoch any more."""
        if self.lost is None:
            self.lost = error
            self.stopped = True
            self._queue.clear()
            if self.on_lost is not None:
                self.on_lost(error)


def _interrupt(turn_id: UUID, outcome: Outcome, times: list[int], askers: dict[str, str]) -> bytes:
    """Return the open interrupt as the ledger holds it: it is over when its first question is."""
    interrupt: dict[str, Any] = {
        "turn_id": str(turn_id),
        "ids": [asked.id for asked in outcome.interrupts],
    }
    schemas = {asked.id: asked.response_schema for asked in outcome.interrupts}
    if any(schemas.values()):
        interrupt["schemas"] = {key: schema for key, schema in schemas.items() if schema}
    if askers:
        interrupt["askers"] = askers
    if times:
        interrupt["expires_at"] = min(times)
    return msgspec.json.encode(interrupt)


def _look_at(task: asyncio.Task[None]) -> None:
    """Take note of the task's error, for a caller that was cancelled meanwhile."""
    if not task.cancelled():
        task.exception()
