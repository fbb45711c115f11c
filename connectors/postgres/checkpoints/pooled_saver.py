"""The saver of `langgraph-checkpoint-postgres` over a pool, without its process-wide lock."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, cast

import psycopg
from langgraph.checkpoint.base import CheckpointTuple as Loaded
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from psycopg.rows import dict_row

from turnstream.connectors.postgres.pools import borrow
from turnstream.schemas.errors import DatabaseUnavailableError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from langchain_core.runnables import RunnableConfig
    from langgraph.checkpoint.base import Checkpoint, CheckpointTuple
    from psycopg import AsyncConnection, AsyncCursor
    from psycopg.rows import DictRow
    from psycopg_pool import AsyncConnectionPool

_COPIED = {
    "checkpoints": "checkpoint_ns, checkpoint_id, parent_checkpoint_id, type, checkpoint, metadata",
    "checkpoint_blobs": "checkpoint_ns, channel, version, type, blob",
    "checkpoint_writes": (
        "checkpoint_ns, checkpoint_id, task_id, idx, channel, type, blob, task_path"
    ),
}

_READ_AGAIN_S = (0.0, 0.1, 0.5)
"""Seconds before each try to load a checkpoint: where a connection was cut, the pool hands out
another one."""


class PooledSaver(AsyncPostgresSaver):
    """Reads checkpoints, and deletes and copies those of whole runs and threads.

    Its connections have autocommit and `prepare_threshold=0`. A thread is named by its key.
    """

    conn: AsyncConnectionPool[AsyncConnection[DictRow]]

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """Load one checkpoint; raises `DatabaseUnavailableError` if it cannot be read."""
        for wait_s in _READ_AGAIN_S:
            await asyncio.sleep(wait_s)
            try:
                return await super().aget_tuple(config)
            except (psycopg.OperationalError, psycopg.InterfaceError, OSError) as error:
                last = error
        raise DatabaseUnavailableError(f"a checkpoint cannot be read: {last}") from last

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
