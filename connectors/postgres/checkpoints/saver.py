"""LangGraph's checkpoints in Postgres, written under the fence of the attempt that is bound.

Reads and writes the tables of `langgraph-checkpoint-postgres`, and through a `Session` the
attempt's rows in `threads` and `turns`. Without a session (edge reads, tools, the conformance
suite) it behaves like the stock saver, without its process-wide lock.
"""

from __future__ import annotations

import inspect
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from turnstream.connectors.postgres.checkpoints.commits import Session
from turnstream.connectors.postgres.checkpoints.fenced_commits import FencedCommits
from turnstream.connectors.postgres.checkpoints.hold import Hold
from turnstream.connectors.postgres.checkpoints.pooled_saver import PooledSaver
from turnstream.connectors.postgres.checkpoints.rows import Items
from turnstream.connectors.postgres.checkpoints.serializer import StateSerializer
from turnstream.connectors.postgres.checkpoints.statements import AHEAD, End, Fence, Rows, statement
from turnstream.connectors.postgres.checkpoints.thread_ids import with_thread, with_thread_in
from turnstream.connectors.postgres.ledger.tool_calls import LedgerToolCalls
from turnstream.schemas.errors import CancelAheadError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
    from uuid import UUID

    from langchain_core.runnables import RunnableConfig
    from langgraph.checkpoint.base import (
        ChannelVersions,
        Checkpoint,
        CheckpointMetadata,
        CheckpointTuple,
        DeltaChannelHistory,
    )
    from langgraph.checkpoint.serde.base import SerializerProtocol
    from psycopg import AsyncConnection
    from psycopg.rows import DictRow
    from psycopg_pool import AsyncConnectionPool

    from turnstream.connectors.postgres.checkpoints.commit_pool import CommitPool
    from turnstream.connectors.postgres.checkpoints.commit_queue import Item
    from turnstream.connectors.postgres.checkpoints.fenced_commits import LogPosition
    from turnstream.schemas.errors import TurnstreamError
    from turnstream.schemas.records.events import Keep
    from turnstream.schemas.records.results import Outcome


class ClosingCall(Protocol):
    """A saver call that the runner collected for a turn's end."""

    def made_by(self, calls: Items) -> Item:
        """Make the call."""
        ...


class FencedSaver(PooledSaver):
    """A saver whose calls go through the attempt's `Session`, where one is bound.

    `conn` is a pool to read from; `commits` writes what graphs store. With a session the saver
    raises `FencedError` when the thread's epoch has moved on, `DatabaseUnavailableError` when a
    commit's result is unknown (both end the attempt) and `UnstorableStateError` for a state that
    Postgres refuses.
    """

    def __init__(
        self,
        conn: AsyncConnectionPool[AsyncConnection[DictRow]],
        commits: CommitPool,
        *,
        serde: SerializerProtocol | None = None,
    ) -> None:
        super().__init__(conn, serde=serde or StateSerializer())
        self._commits = commits

    def session(
        self,
        *,
        thread_key: str,
        turn_id: UUID,
        epoch: int,
        log: LogPosition,
        origin: UUID | None = None,
        keep_n: int = 0,
        high_n: int = 0,
        keep: tuple[Keep, ...] = (),
        fresh: bool = False,
        on_cancel: Callable[[str], None] | None = None,
        on_lost: Callable[[TurnstreamError], None] | None = None,
    ) -> Session:
        """Return a session that writes through this saver.

        `keep_n`, `high_n`, `keep` are the claim's. `origin` is the first turn of the chain of
        resumes, the turn itself unless given. See `Session` and `Hold` for the rest.
        """
        hold = Hold(
            thread_key=thread_key,
            turn_id=turn_id,
            epoch=epoch,
            on_cancel=on_cancel,
            on_lost=on_lost,
        )
        send = partial(self._execute, thread_key)
        commits = FencedCommits(hold, send, log, keep_n=keep_n, high_n=high_n, keep=keep)
        calls = LedgerToolCalls(
            hold, commits.flush, self._commits, self.serde, origin=origin or turn_id
        )
        return Session(hold, commits, log, calls, fresh=fresh)

    async def commit_outcome(
        self,
        session: Session,
        outcome: Outcome,
        closing: Iterable[ClosingCall] = (),
        *,
        reopen: bytes | None = None,
    ) -> None:
        """Write a turn's outcome and its closing checkpoints in one transaction.

        See `Session.commit_outcome`.
        """
        make = Items(self.serde, session.hold.run)
        items = [call.made_by(make) for call in closing]
        await session.commit_outcome(outcome, items, reopen=reopen)

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """Store a checkpoint; in a session, after all that was emitted before is acknowledged."""
        configurable = config["configurable"]
        thread_id, ns = configurable["thread_id"], configurable["checkpoint_ns"]
        stored: RunnableConfig = {
            "configurable": {
                "thread_id": thread_id,
                "checkpoint_ns": ns,
                "checkpoint_id": checkpoint["id"],
            }
        }
        session, key = Session.of(thread_id)
        if session is None:
            item = Items(self.serde).checkpoint(config, checkpoint, metadata, new_versions)
            await self._execute(key, item.rows)
        elif session.hears():
            run = session.hold.run
            item = Items(self.serde, run).checkpoint(config, checkpoint, metadata, new_versions)
            await session.put(
                item,
                parent=configurable.get("checkpoint_id") or "",
                step=metadata.get("step", -1),
                source=metadata.get("source", ""),
                last=not ns and run.is_last(checkpoint),
            )
        return stored

    async def aput_writes(
        self,
        config: RunnableConfig,
        writes: Sequence[tuple[str, Any]],
        task_id: str,
        task_path: str = "",
    ) -> None:
        """Store a task's writes; in a session, together with what else waits."""
        configurable = config["configurable"]
        session, key = Session.of(configurable["thread_id"])
        if session is None:
            item = Items(self.serde).writes(config, writes, task_id, task_path)
            await self._execute(key, item.rows)
        elif session.hears():
            item = Items(self.serde, session.hold.run).writes(config, writes, task_id, task_path)
            for channel, value in writes:
                if channel == "__interrupt__":
                    session.ask(configurable["checkpoint_ns"], task_id, value)
            if item.rows.writes:
                await session.write(item, task_id)

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """Load one checkpoint, the latest of its namespace if the config names none."""
        configurable = config["configurable"]
        thread_id, ns = configurable["thread_id"], configurable.get("checkpoint_ns", "")
        session, key = Session.of(thread_id)
        if session is not None and not await session.before_load(ns):
            return None
        loaded = await super().aget_tuple(with_thread(config, key))
        if loaded is None:
            return None
        if session is not None:
            session.progress.loaded(ns, loaded, str(session.hold.turn_id))
        return with_thread_in(loaded, thread_id)

    async def alist(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,  # noqa: A002  the interface's name
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[CheckpointTuple]:
        """Yield checkpoints, newest first."""
        given, key = "", ""
        if config is not None:
            given = config["configurable"]["thread_id"]
            session, key = Session.of(given)
            if session is not None:
                await session.before_list()
            config = with_thread(config, key)
        async for loaded in super().alist(config, filter=filter, before=before, limit=limit):
            yield loaded if key == given else with_thread_in(loaded, given)

    async def adelete_thread(self, thread_id: str) -> None:
        """Delete a thread's checkpoints."""
        await super().adelete_thread(Session.of(thread_id)[1])

    async def aget_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """Return what channels that keep differences are made of."""
        key = Session.of(config["configurable"]["thread_id"])[1]
        return await super().aget_delta_channel_history(
            config=with_thread(config, key), channels=channels
        )

    async def acopy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """Copy a thread's checkpoints; what the target holds already stays."""
        source, target = Session.of(source_thread_id)[1], Session.of(target_thread_id)[1]
        await super().acopy_thread(source, target)

    async def _execute(
        self, thread_id: str, rows: Rows, fence: Fence | None = None, end: End | None = None
    ) -> tuple[str | None] | None:
        sql, values = statement(thread_id, rows, fence, end)
        found = await self._commits.fetch(sql, *values)
        if found:
            return (found[0]["cancel"],)
        if fence is not None and end is not None:
            ahead = await self._commits.fetch(AHEAD, thread_id, fence.epoch)
            if ahead:
                raise CancelAheadError(ahead[0]["cancel"])
        return None


# LangGraph asks for this signature at the start of each run, and `inspect` would derive it anew
FencedSaver.aput_writes.__signature__ = inspect.signature(  # type: ignore[attr-defined]
    FencedSaver.aput_writes
)
