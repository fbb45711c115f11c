"""The saver's side of one attempt: when each checkpoint and each write is committed.

LangGraph hands checkpoints and writes over as background jobs. A `Session` puts them in one queue
and decides when the queue's front is committed: always after the log has acknowledged what had been
emitted until then (W5, W5n, W6). `FencedCommits` executes the statements.
"""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

from turnstream.connectors.postgres.checkpoints.progress import Progress
from turnstream.connectors.postgres.checkpoints.turn_end import Question, end_of
from turnstream.schemas.records.events import CheckpointSaved

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from langgraph.types import Interrupt

    from turnstream.connectors.postgres.checkpoints.commit_queue import Item
    from turnstream.connectors.postgres.checkpoints.fenced_commits import (
        FencedCommits,
        LogPosition,
    )
    from turnstream.connectors.postgres.checkpoints.hold import Hold, RunFacts
    from turnstream.connectors.postgres.ledger.tool_calls import LedgerToolCalls
    from turnstream.schemas.errors import TurnstreamError
    from turnstream.schemas.records.events import Keep
    from turnstream.schemas.records.results import Outcome

_SESSION: ContextVar[Session | None] = ContextVar("turnstream_session", default=None)

HELD_S = 0.1
"""How long a checkpoint is held back before it is committed by itself."""


class Session:
    """Implements `turnstream.graph.ports.commits.Commits` for one attempt.

    `fresh`: the thread has no checkpoint, so the first load is skipped.
    """

    def __init__(
        self,
        hold: Hold,
        commits: FencedCommits,
        log: LogPosition,
        tool_calls: LedgerToolCalls,
        *,
        fresh: bool = False,
    ) -> None:
        self.hold = hold
        self.tool_calls = tool_calls
        self.progress = Progress()
        self.asked: dict[str, Question] = {}
        self._commits = commits
        self._queue = commits.queue
        self._log = log
        self._fresh = fresh
        self._held: asyncio.TimerHandle | None = None
        self._committing: asyncio.Task[None] | None = None

    @contextmanager
    def bound(self) -> Iterator[Session]:
        """Make this the session of every saver call made inside, tasks started there included."""
        token = _SESSION.set(self)
        try:
            yield self
        finally:
            _SESSION.reset(token)

    def let_go(self) -> None:
        """Drop the references to the attempt, which is over and refers to this session."""
        self.hold.let_go()

    @staticmethod
    def of(thread_id: str) -> tuple[Session | None, str]:
        """Return the session bound here, if it is this thread's, and the thread's key.

        Graphs know a thread by the id that its client has. Inside a session the tenant is the
        session's, whatever a graph asks for; outside, `thread_id` is a key already.
        """
        session = _SESSION.get()
        if session is None:
            return None, thread_id
        hold = session.hold
        if hold.thread_key in (thread_id, f"{hold.tenant}/{thread_id}"):
            return session, hold.thread_key
        return None, f"{hold.tenant}/{thread_id}"

    # -- what the saver calls ------------------------------------------------------------------

    def hears(self) -> bool:
        """Return whether saver calls are still taken; raises what ended the session."""
        if self.hold.stopped and self.hold.lost is None:
            return False
        self.hold.check()
        return True

    async def put(self, item: Item, *, parent: str, step: int, source: str, last: bool) -> None:
        """Commit a checkpoint, with its step's writes, or hold it back.

        Three checkpoints are held back: the input's and the one right after it, because a crash
        applies the same input again, and the one after which nothing runs, because its transaction
        is the outcome's. The next commit takes them along. In a step that takes longer than
        `HELD_S` they are committed by themselves, because readers are shown the state that they
        announce.
        """
        self.progress.put(item.ns, step, source)
        step_writes = self._queue.claim_writes(item.ns, parent)
        if item.ns:
            # what a nested graph's tasks said reaches us through the stream of the graph around it
            for write in step_writes:
                if write.keep:
                    await self.hold.run.task_ended(write.keep.rpartition("|")[2])
        self._log.emit(
            CheckpointSaved,
            path=item.keep,
            checkpoint_id=item.checkpoint_id,
            parent_id=parent,
            step=step,
            ns=item.ns,
            source=source,
        )
        item.n = self._log.n
        for write in step_writes:
            write.n = item.n
        begun = self._queue.holds(item.ns, parent)
        item.holds = source == "input"
        self._queue.append(item)
        if item.holds or begun or last:
            if self._held is None and not last:
                self._held = asyncio.get_running_loop().call_later(HELD_S, self._commit_held)
            return
        await self._log.acked(item.n)
        await self._commits.commit(item)

    async def write(self, item: Item, task_id: str) -> None:
        """Commit a task's writes, unless a checkpoint takes them along; never waits for one."""
        self._queue.append(item)
        if self._queue.holds(item.ns, item.checkpoint_id):
            item.n = self._log.n
            return
        if item.keep:
            await self.hold.run.task_ended(task_id)
        if item.claimed:
            return
        item.n = self._log.n
        for _ in range(3):  # the step's checkpoint, if this was its last task, starts by then
            await asyncio.sleep(0)
            if item.claimed:
                return
        await self._log.acked(item.n)
        if not item.claimed:
            await self._commits.commit(item)

    def ask(self, ns: str, task_id: str, interrupts: Iterable[Interrupt]) -> None:
        """Note the questions that a task stopped with.

        The innermost task comes first; the tasks around it repeat its question.
        """
        path = f"{self.hold.run.path_of(ns)}|{task_id}" if ns else task_id
        for asked in interrupts:
            self.asked.setdefault(asked.id, Question(path, ns, asked))

    async def before_load(self, ns: str) -> bool:
        """Commit what a reader of `ns` must see; returns False if there is nothing to load."""
        if not self.hold.stopped and self._queue.waits(ns):
            await self.flush()
        return not (self._fresh and not ns and not self.hold.statements)

    async def before_list(self) -> None:
        """Commit what a reader of every namespace must see."""
        if self._queue and not self.hold.stopped:
            await self.flush()

    def _commit_held(self) -> None:
        self._held = None
        if self._queue and not self.hold.stopped and self.hold.broken is None:
            self._committing = asyncio.create_task(self.flush())
            self._committing.add_done_callback(self._committed)

    def _committed(self, task: asyncio.Task[None]) -> None:
        self._committing = None  # its context refers to this session: a circle
        if not task.cancelled():
            task.exception()

    # -- what the runner calls -----------------------------------------------------------------

    def follow(self, run: RunFacts) -> None:
        """Commit for this run, and ask it what only the run knows."""
        self.hold.run = run

    @property
    def lost(self) -> TurnstreamError | None:
        """What ended the attempt, if it is over: fenced, or a commit's result is unknown."""
        return self.hold.lost

    async def settled(self, path: str) -> Sequence[Keep]:
        """Wait for commits under `path`; return the keep entries at or under it."""
        return await self._commits.settled(path)

    def stop(self) -> None:
        """Ignore what LangGraph still hands over: its tasks are being stopped (W7)."""
        self.hold.stopped = True

    async def flush(self) -> None:
        """Commit everything whose position is known."""
        await self._commits.flush()

    # -- what the attempt calls ----------------------------------------------------------------

    async def commit_outcome(
        self, outcome: Outcome, closing: Iterable[Item] = (), *, reopen: bytes | None = None
    ) -> None:
        """Write the outcome, with what is held back and `closing`, in one transaction (W7).

        Everything emitted until this call is acknowledged first. Afterwards the turn has its
        outcome, `keep_n = high_n = n`, and the thread its open interrupt (`reopen`: the one that
        was open before the turn) or none. A turn that was rolled back leaves nothing in the state.

        Raises `CancelAheadError` if the turn was told to stop in a way that the outcome would not
        honour: a question that may no longer be asked, anything but a rollback. Nothing is
        written then; call again with what the cause asks for.
        """
        if self.hold.lost is not None:
            raise self.hold.lost
        self.hold.stopped = True
        if self._held is not None:
            self._held.cancel()
            self._held = None
        n = self._log.n
        end = end_of(self.hold, outcome, reopen)
        if self.hold.broken is not None or end.rolls_back:
            self._queue.clear()
        self._queue.close(closing, n)
        await self._log.acked(n)
        await self._commits.commit_end(n, end)
