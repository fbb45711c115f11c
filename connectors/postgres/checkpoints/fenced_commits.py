"""The commits of one attempt: one fenced statement at a time, each behind its acks (W5)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

import msgspec

from turnstream.connectors.postgres.checkpoints.commit_queue import CommitQueue, Item, advance
from turnstream.connectors.postgres.checkpoints.statements import End, Fence, Rows
from turnstream.schemas.errors import UnstorableStateError
from turnstream.schemas.fold.fold import covers

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from turnstream.connectors.postgres.checkpoints.hold import Hold
    from turnstream.schemas.records.events import Event, Keep

    Send = Callable[[Rows, Fence, End | None], Awaitable[tuple[str | None] | None]]
    """Executes one statement; returns the thread's cancel flag, None where it was fenced."""


class LogPosition(Protocol):
    """What the commits need of the turn's emitter."""

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

        The attempt's `AttemptStarted` counts as emitted before everything else.
        """
        ...

    def emit(self, event_type: type[Event], *, path: str, **fields: object) -> int:
        """Take one event and return its `n`."""
        ...


class FencedCommits:
    """Commits the front of a queue of saver calls under the attempt's epoch.

    `keep_n`, `high_n` and `keep` are the claim's at first, and then those of the last commit.
    """

    def __init__(
        self,
        hold: Hold,
        send: Send,
        log: LogPosition,
        *,
        keep_n: int,
        high_n: int,
        keep: tuple[Keep, ...],
    ) -> None:
        self.queue = CommitQueue()
        self._hold = hold
        self._send = send
        self._log = log
        self._keep_n, self._high_n, self._keep = keep_n, high_n, keep
        self._turnstile = asyncio.Lock()

    async def flush(self) -> None:
        """Commit everything whose position is known."""
        self._hold.check()
        n = self._log.n
        if self.queue:
            await self._log.acked(n)
        await self._shielded(None, n, None)

    async def settled(self, path: str) -> Sequence[Keep]:
        """Wait for commits under `path`; return the keep entries at or under it."""
        await self.flush()
        return tuple(entry for entry in self._keep if covers(path, entry.path))

    async def commit(self, item: Item) -> None:
        """Commit an item and what stands before it, unless another commit has taken it along."""
        await self._shielded(item, -1, None)

    async def commit_end(self, n: int, end: End) -> None:
        """Commit everything up to `n` together with the turn's end."""
        await self._shielded(None, n, end)

    async def _shielded(self, item: Item | None, n: int, end: End | None) -> None:
        # in a task of its own: LangGraph may cancel the caller, a statement under way must end
        task = asyncio.create_task(self._commit_front(item, n, end))
        task.add_done_callback(_take_error)
        await asyncio.shield(task)

    async def _commit_front(self, item: Item | None, n: int, end: End | None) -> None:
        async with self._turnstile:
            if self._hold.lost is not None:
                raise self._hold.lost
            if end is None:
                self._hold.check()
            if item is not None:
                if item.done:
                    return
                n = item.n
            batch = self.queue.front(n)
            if batch or end is not None:
                await self._send_batch(batch, n, end)

    async def _send_batch(self, batch: list[Item], n: int, end: End | None) -> None:
        hold = self._hold
        # the outcome keeps everything, as a root checkpoint does (W6)
        keep, keep_n = ((), n) if end is not None else advance(self._keep, self._keep_n, batch)
        high_n = max(self._high_n, n if end is not None else max(item.n for item in batch))
        rows = Rows()
        for item in batch:
            rows.extend(item.rows)
        fence = Fence(
            thread_key=hold.thread_key,
            epoch=hold.epoch,
            keep_n=keep_n,
            high_n=high_n,
            keep=msgspec.json.encode(keep),
            first_off=self._log.first_off,
            carried=hold.run.carried(keep_n, keep),
        )
        try:
            (cancel,) = await hold.sent(self._send(rows, fence, end))
        except UnstorableStateError as error:
            hold.broken = error
            raise
        self._keep, self._keep_n, self._high_n = keep, keep_n, high_n
        self.queue.finish(batch)
        if cancel is not None:
            hold.cancelled(cancel)


def _take_error(task: asyncio.Task[None]) -> None:
    """Retrieve the task's error, because its caller may have been cancelled meanwhile."""
    if not task.cancelled():
        task.exception()
