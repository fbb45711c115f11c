"""LangGraph's checkpoints in Postgres, written under the fence of the attempt that is bound.

Reads and writes the tables of `langgraph-checkpoint-postgres`, and through a `Session` the
attempt's rows in `threads` and `turns`. Without a session (edge reads, tools, the conformance
suite) it behaves like the stock saver, without its process-wide lock.
"""

from __future__ import annotations

import asyncio
import inspect
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, cast

import psycopg
from langchain_core.messages import BaseMessage
from langgraph.checkpoint.base import CheckpointTuple as Loaded
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from psycopg.rows import dict_row

from turnstream.connectors.postgres.checkpoints.commits import Question, Session
from turnstream.connectors.postgres.checkpoints.rows import (
    NULL_TASK_ID,
    UNFINISHED_CHANNELS,
    Items,
)
from turnstream.connectors.postgres.checkpoints.serializer import StateSerializer
from turnstream.connectors.postgres.checkpoints.statements import AHEAD, End, Fence, Rows, statement
from turnstream.connectors.postgres.ledger.tool_calls import LedgerToolCalls
from turnstream.connectors.postgres.pools import borrow
from turnstream.schemas.errors import CancelAheadError, DatabaseUnavailableError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
    from uuid import UUID

    from langchain_core.runnables import RunnableConfig
    from langgraph.checkpoint.base import (
        ChannelVersions,
        Checkpoint,
        CheckpointMetadata,
        CheckpointTuple,
    )
    from langgraph.checkpoint.serde.base import SerializerProtocol
    from psycopg import AsyncCursor
    from psycopg.rows import DictRow
    from psycopg_pool import AsyncConnectionPool

    from turnstream.connectors.postgres.checkpoints.commit_pool import CommitPool

_COPIED = {
    "checkpoints": "checkpoint_ns, checkpoint_id, parent_checkpoint_id, type, checkpoint, metadata",
    "checkpoint_blobs": "checkpoint_ns, channel, version, type, blob",
    "checkpoint_writes": (
        "checkpoint_ns, checkpoint_id, task_id, idx, channel, type, blob, task_path"
    ),
}


class FencedSaver(AsyncPostgresSaver):
    """A saver whose calls go through the attempt's `Session`, where one is bound.

    `conn` is a pool to read from, whose connections have autocommit and `prepare_threshold=0`;
    `commits` writes what graphs store. With a session the saver raises `FencedError` when the
    thread's epoch has moved on, `DatabaseUnavailableError` when a commit's result is unknown (both
    end the attempt) and `UnstorableStateError` for a state that Postgres refuses.
    """

    conn: AsyncConnectionPool[Any]

    def __init__(
        self,
        conn: AsyncConnectionPool[Any],
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
        origin: UUID | None = None,
        **rest: Any,
    ) -> Session:
        """Return a session that writes through this saver; `rest` as in `Session`.

        `origin` is the first turn of the chain, the turn itself unless given.
        """
        tenant = thread_key.partition("/")[0]
        session = Session(
            send=self._sender(thread_key),
            thread_key=thread_key,
            tenant=tenant,
            turn_id=turn_id,
            epoch=epoch,
            **rest,
        )
        session.tool_calls = LedgerToolCalls(
            session, self._commits, self.serde, origin=origin or turn_id
        )
        return session

    async def commit_outcome(
        self,
        session: Session,
        outcome: Any,
        closing: Iterable[tuple[Any, ...]] = (),
        *,
        reopen: bytes | None = None,
    ) -> None:
        """Write a turn's outcome and its closing checkpoints in one transaction.

        See `Session.commit_outcome`. `closing` are saver calls as the runner collected them
        (graph/ports.py: SaverCall).
        """
        make = Items(self.serde, session)
        items = [
            make.checkpoint(*arguments) if name == "aput" else make.writes(*arguments)
            for name, *arguments in closing
        ]
        await session.commit_outcome(outcome, items, reopen=reopen)

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """Store a checkpoint; in a session, after all that was said before it is acknowledged."""
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
        make = Items(self.serde, session)
        if session is None:
            item = make.checkpoint(config, checkpoint, metadata, new_versions)
            await self._execute(key, item.rows)
            return stored
        if session.stopped and session.lost is None:
            return stored
        session.check()
        item = make.checkpoint(config, checkpoint, metadata, new_versions)
        last = not ns and session.is_last is not None and session.is_last(checkpoint)
        await session.put(
            item,
            parent=configurable.get("checkpoint_id") or "",
            step=metadata.get("step", -1),
            source=metadata.get("source", ""),
            last=last,
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
        thread_id = config["configurable"]["thread_id"]
        session, key = Session.of(thread_id)
        make = Items(self.serde, session)
        if session is None:
            item = make.writes(config, writes, task_id, task_path)
            await self._execute(key, item.rows)
            return
        if session.stopped and session.lost is None:
            return
        session.check()
        item = make.writes(config, writes, task_id, task_path)
        for channel, value in writes:
            if channel == "__interrupt__":
                ns = config["configurable"]["checkpoint_ns"]
                path = f"{session.path_of(ns)}|{task_id}" if ns else task_id
                for asked in value:
                    # the innermost task comes first, those around it repeat its question
                    session.asked.setdefault(
                        asked.id, Question(path, ns, asked.value, asked.response_schema, asked)
                    )
        if item.rows.writes:
            await session.write(item, task_id)

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """Load one checkpoint, the latest of its namespace if the config names none."""
        configurable = config["configurable"]
        session, key = Session.of(configurable["thread_id"])
        if session is not None and not await session.before_load(
            configurable.get("checkpoint_ns", "")
        ):
            return None
        loaded = await self._load(_with_thread(config, key))
        if loaded is not None and key != configurable["thread_id"]:
            loaded = _named(loaded, configurable["thread_id"])
        if session is not None and loaded is not None:
            ns = configurable.get("checkpoint_ns", "")
            mine = loaded.metadata.get("run_id") == str(session.turn_id)
            if mine and not ns and loaded.metadata.get("source") != "input":
                session.applied = True
            session.seen(
                ns,
                loaded.metadata.get("step", -1),
                (
                    task_id
                    for task_id, channel, _ in loaded.pending_writes or ()
                    if task_id != NULL_TASK_ID and channel not in UNFINISHED_CHANNELS
                ),
                _messages_in(loaded) if ns else (),
            )
        return loaded

    async def _load(self, config: RunnableConfig) -> CheckpointTuple | None:
        """Read again where a connection is cut: the pool hands out another one."""
        for wait_s in (0.0, 0.1, 0.5):
            await asyncio.sleep(wait_s)
            try:
                return await super().aget_tuple(config)
            except (psycopg.OperationalError, psycopg.InterfaceError, OSError) as error:
                last = error
        raise DatabaseUnavailableError(f"a checkpoint cannot be read: {last}") from last

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
            if session is not None and session.pending() and not session.stopped:
                await session.flush()
            config = _with_thread(config, key)
        async for loaded in super().alist(config, filter=filter, before=before, limit=limit):
            yield loaded if key == given else _named(loaded, given)

    async def adelete_thread(self, thread_id: str) -> None:
        """Delete a thread's checkpoints."""
        await super().adelete_thread(Session.of(thread_id)[1])

    async def aget_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Any:
        """Return what channels that keep differences are made of."""
        key = Session.of(config["configurable"]["thread_id"])[1]
        return await super().aget_delta_channel_history(
            config=_with_thread(config, key), channels=channels
        )

    async def adelete_for_runs(self, run_ids: Sequence[str]) -> None:
        """Delete the checkpoints of these runs and their writes, in every namespace.

        The channel values that nothing refers to any more stay until the thread is pruned.
        """
        async with self._cursor() as cursor, cursor.connection.transaction():
            await cursor.execute(
                "DELETE FROM checkpoint_writes w USING checkpoints c"
                " WHERE w.thread_id = c.thread_id AND w.checkpoint_ns = c.checkpoint_ns"
                " AND w.checkpoint_id = c.checkpoint_id AND c.metadata->>'run_id' = ANY(%s)",
                (list(run_ids),),
            )
            await cursor.execute(
                "DELETE FROM checkpoints WHERE metadata->>'run_id' = ANY(%s)", (list(run_ids),)
            )

    async def acopy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """Copy a thread's checkpoints; what the target holds already stays."""
        source_thread_id = Session.of(source_thread_id)[1]
        target_thread_id = Session.of(target_thread_id)[1]
        async with self._cursor() as cursor, cursor.connection.transaction():
            for table, columns in _COPIED.items():
                await cursor.execute(
                    f"INSERT INTO {table} (thread_id, {columns})"
                    f" SELECT %s, {columns} FROM {table} WHERE thread_id = %s"
                    " ON CONFLICT DO NOTHING",
                    (target_thread_id, source_thread_id),
                )

    @asynccontextmanager
    async def _cursor(self, *, pipeline: bool = False) -> AsyncIterator[AsyncCursor[DictRow]]:
        """Give the inherited methods a connection of the pool, without the stock saver's lock."""
        async with borrow(self.conn) as connection:
            if pipeline:
                async with (
                    connection.pipeline(),
                    connection.cursor(binary=True, row_factory=dict_row) as cursor,
                ):
                    yield cursor
            else:
                async with connection.cursor(binary=True, row_factory=dict_row) as cursor:
                    yield cursor

    async def _load_checkpoint_tuple(self, value: DictRow) -> CheckpointTuple:
        """Do as the stock saver, but without handing a short loop to a thread."""
        where = {"thread_id": value["thread_id"], "checkpoint_ns": value["checkpoint_ns"]}
        parent = value["parent_checkpoint_id"]
        inline = value["checkpoint"].get("channel_values") or {}
        values = {**inline, **self._load_blobs(value["channel_values"])}
        return Loaded(
            {"configurable": {**where, "checkpoint_id": value["checkpoint_id"]}},
            cast("Checkpoint", {**value["checkpoint"], "channel_values": values}),
            value["metadata"],
            {"configurable": {**where, "checkpoint_id": parent}} if parent else None,
            self._load_writes(value["pending_writes"]),
        )

    def _sender(self, thread_id: str) -> Any:
        async def send(rows: Rows, fence: Fence, end: End | None) -> tuple[str | None] | None:
            return await self._execute(thread_id, rows, fence, end)

        return send

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


def _with_thread(config: RunnableConfig, key: str) -> RunnableConfig:
    """Return the config with the thread's key in place of the id that its client has."""
    if config["configurable"]["thread_id"] == key:
        return config
    return {**config, "configurable": {**config["configurable"], "thread_id": key}}


def _named(loaded: CheckpointTuple, thread_id: str) -> CheckpointTuple:
    """Return a checkpoint as graphs know it: its thread by the id that its client has."""
    parent = loaded.parent_config
    return loaded._replace(
        config=_with_thread(loaded.config, thread_id),
        parent_config=_with_thread(parent, thread_id) if parent else None,
    )


def _messages_in(loaded: CheckpointTuple) -> Iterator[str]:
    """Yield the ids of the messages that a checkpoint holds, and its tasks' writes."""
    values = [*loaded.checkpoint["channel_values"].values()]
    values += [value for _, _, value in loaded.pending_writes or ()]
    for value in values:
        for one in value if isinstance(value, list) else (value,):
            if isinstance(one, BaseMessage) and one.id:
                yield one.id
