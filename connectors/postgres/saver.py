"""LangGraph's checkpoints in Postgres, written under the fence of the attempt that is bound.

Reads and writes the tables of `langgraph-checkpoint-postgres`, and through a `Session` the
attempt's rows in `threads` and `turns`. Without a session (edge reads, tools, the conformance
suite) it behaves like the stock saver, without its process-wide lock.
"""

from __future__ import annotations

import asyncio
import math
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, cast

import msgspec
import psycopg
from langchain_core.messages import BaseMessage
from langgraph.checkpoint.base import (
    WRITES_IDX_MAP,
    get_serializable_checkpoint_metadata,
)
from langgraph.checkpoint.base import CheckpointTuple as Loaded
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.checkpoint.serde.types import _DeltaSnapshot
from psycopg.rows import dict_row, tuple_row

from turnstream.connectors.postgres.commits import Item, Question, Session
from turnstream.connectors.postgres.pools import borrow
from turnstream.connectors.postgres.statements import (
    AHEAD,
    BlobRow,
    CheckpointRow,
    End,
    Fence,
    Rows,
    WriteRow,
    statement,
)
from turnstream.connectors.postgres.tool_calls import LedgerToolCalls
from turnstream.schemas.errors import CancelAheadError, DatabaseUnavailableError
from turnstream.schemas.transcript import clean_text

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

COMMIT_PATIENCE_S = 120.0
"""For a connection to commit over. While there is none, nothing was sent and nothing is unknown:
the turn waits, and goes on where it is unless its thread is somebody else's by then."""

NULL_TASK_ID = "00000000-0000-0000-0000-000000000000"
# only other writes make a task finished; langgraph has no public name for the second
UNFINISHED_CHANNELS = frozenset(
    {"__error__", "__error_source_node__", "__interrupt__", "__resume__"}
)
_COPIED = {
    "checkpoints": "checkpoint_ns, checkpoint_id, parent_checkpoint_id, type, checkpoint, metadata",
    "checkpoint_blobs": "checkpoint_ns, channel, version, type, blob",
    "checkpoint_writes": (
        "checkpoint_ns, checkpoint_id, task_id, idx, channel, type, blob, task_path"
    ),
}


class FencedSaver(AsyncPostgresSaver):
    """A saver whose calls go through the attempt's `Session`, where one is bound.

    `conn` is a pool whose connections have autocommit and `prepare_threshold=0`. With a session the
    saver raises `FencedError` when the thread's epoch has moved on, `DatabaseUnavailableError` when
    a commit's result is unknown (both end the attempt) and `UnstorableStateError` for a state that
    Postgres refuses.
    """

    conn: AsyncConnectionPool[Any]

    def __init__(
        self, conn: AsyncConnectionPool[Any], *, serde: SerializerProtocol | None = None
    ) -> None:
        super().__init__(conn, serde=serde)

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
            session,
            lambda: borrow(self.conn, patience_s=COMMIT_PATIENCE_S),
            self.serde,
            origin=origin or turn_id,
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
        items = []
        for name, *arguments in closing:
            build = self._checkpoint if name == "aput" else self._writes
            items.append(build(session, *arguments))
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
        session = Session.of(thread_id)
        if session is None:
            item = self._checkpoint(None, config, checkpoint, metadata, new_versions)
            await self._execute(thread_id, item.rows)
            return stored
        if session.stopped and session.lost is None:
            return stored
        session.check()
        item = self._checkpoint(session, config, checkpoint, metadata, new_versions)
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
        session = Session.of(thread_id)
        if session is None:
            item = self._writes(None, config, writes, task_id, task_path)
            await self._execute(thread_id, item.rows)
            return
        if session.stopped and session.lost is None:
            return
        session.check()
        item = self._writes(session, config, writes, task_id, task_path)
        for channel, value in writes:
            if channel == "__interrupt__":
                ns = config["configurable"]["checkpoint_ns"]
                path = f"{session.path_of(ns)}|{task_id}" if ns else task_id
                for asked in value:
                    # the innermost task comes first, those around it repeat its question
                    session.asked.setdefault(
                        asked.id, Question(path, ns, asked.value, asked.response_schema)
                    )
        if item.rows.writes:
            await session.write(item, task_id)

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """Load one checkpoint, the latest of its namespace if the config names none."""
        configurable = config["configurable"]
        session = Session.of(configurable["thread_id"])
        if session is not None and not await session.before_load(
            configurable.get("checkpoint_ns", "")
        ):
            return None
        loaded = await self._load(config)
        if session is not None and loaded is not None:
            ns = configurable.get("checkpoint_ns", "")
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
        if config is not None:
            session = Session.of(config["configurable"]["thread_id"])
            if session is not None and session.pending() and not session.stopped:
                await session.flush()
        async for loaded in super().alist(config, filter=filter, before=before, limit=limit):
            yield loaded

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

    # Rows of one call.

    def _checkpoint(
        self,
        session: Session | None,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> Item:
        """Split the values as the stock saver does: short ones inline, others into blobs."""
        configurable = config["configurable"]
        ns = configurable["checkpoint_ns"]
        inline: dict[str, Any] = {}
        blobs: list[BlobRow] = []
        for channel, value in checkpoint["channel_values"].items():
            if _fits_inline(value):
                inline[channel] = value
                continue
            if isinstance(value, _DeltaSnapshot):
                inline[channel] = True
            if channel in new_versions:
                kind, blob = self.serde.dumps_typed(value)
                blobs.append(BlobRow(ns, channel, str(new_versions[channel]), kind, blob))
        row = CheckpointRow(
            ns,
            checkpoint["id"],
            configurable.get("checkpoint_id"),
            _json({**checkpoint, "channel_values": inline}),
            _json(get_serializable_checkpoint_metadata(config, metadata)),
        )
        path = f"{session.path_of(ns)}|" if session is not None and ns else ""
        return Item(
            ns=ns,
            rows=Rows(blobs=blobs, checkpoints=[row]),
            keep=path,
            root=not ns,
            checkpoint_id=checkpoint["id"],
        )

    def _writes(
        self,
        session: Session | None,
        config: RunnableConfig,
        writes: Sequence[tuple[str, Any]],
        task_id: str,
        task_path: str = "",
    ) -> Item:
        configurable = config["configurable"]
        ns, checkpoint_id = configurable["checkpoint_ns"], configurable["checkpoint_id"]
        rows = []
        for index, (channel, value) in enumerate(writes):
            kind, blob = self.serde.dumps_typed(value)
            place = WRITES_IDX_MAP.get(channel, index)
            rows.append(WriteRow(ns, checkpoint_id, task_id, task_path, place, channel, kind, blob))
        path = ""
        if (
            session is not None
            and task_id != NULL_TASK_ID
            and any(channel not in UNFINISHED_CHANNELS for channel, _ in writes)
        ):
            path = f"{session.path_of(ns)}|{task_id}" if ns else task_id
        return Item(
            ns=ns, rows=Rows(writes=rows), keep=path, checkpoint_id=checkpoint_id, task=True
        )

    def _sender(self, thread_id: str) -> Any:
        async def send(rows: Rows, fence: Fence, end: End | None) -> tuple[str | None] | None:
            return await self._execute(thread_id, rows, fence, end)

        return send

    async def _execute(
        self, thread_id: str, rows: Rows, fence: Fence | None = None, end: End | None = None
    ) -> tuple[str | None] | None:
        sql, values = statement(thread_id, rows, fence, end)
        patience_s = None if fence is None else COMMIT_PATIENCE_S
        async with (
            borrow(self.conn, patience_s=patience_s) as connection,
            connection.cursor(row_factory=tuple_row) as cursor,
        ):
            await cursor.execute(sql, values)
            row = cast("tuple[str | None] | None", await cursor.fetchone())
            if row is None and end is not None:
                await cursor.execute(AHEAD, values)
                if (ahead := await cursor.fetchone()) is not None:
                    raise CancelAheadError(ahead[0])
            return row


def _messages_in(loaded: CheckpointTuple) -> Iterator[str]:
    """Yield the ids of the messages that a checkpoint holds, and its tasks' writes."""
    values = [*loaded.checkpoint["channel_values"].values()]
    values += [value for _, _, value in loaded.pending_writes or ()]
    for value in values:
        for one in value if isinstance(value, list) else (value,):
            if isinstance(one, BaseMessage) and one.id:
                yield one.id


def _fits_inline(value: object) -> bool:
    """Tell whether jsonb can hold the value: it has no NUL, no lone surrogate, no NaN."""
    if isinstance(value, str):
        return "\x00" not in value and (value.isascii() or clean_text(value) is value)
    if isinstance(value, float):
        return math.isfinite(value)
    return value is None or isinstance(value, (int, bool))


def _json(value: object) -> bytes:
    """Return JSON that jsonb takes: NUL and lone surrogates in strings become U+FFFD."""
    try:
        encoded = msgspec.json.encode(value)
    except (TypeError, UnicodeEncodeError):
        encoded = msgspec.json.encode(_plain(value))
    if b"\\u0000" in encoded:
        return msgspec.json.encode(_plain(value))
    return encoded


def _plain(value: Any) -> Any:
    """Return the value made of JSON's own types, with strings that jsonb takes."""
    if isinstance(value, str):
        return clean_text(str(value)).replace("\x00", "\ufffd")
    if isinstance(value, dict):
        return {_plain(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(item) for item in value]
    if isinstance(value, int) and not isinstance(value, bool):
        return int(value)
    return value
