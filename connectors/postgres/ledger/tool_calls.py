"""The tool ledger's side of one attempt: calls with effects, recorded before they run.

Writes the table `tool_calls` through the functions of `sql/tool_calls.sql`, each in a transaction
that compares the thread's epoch, like every one of the attempt's.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from turnstream.schemas.errors import UnstorableStateError
from turnstream.schemas.tool_calls import Known, ToolCall

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from uuid import UUID

    from asyncpg import Record
    from langgraph.checkpoint.serde.base import SerializerProtocol

    from turnstream.connectors.postgres.checkpoints.commit_pool import CommitPool
    from turnstream.connectors.postgres.checkpoints.hold import Hold

_START = "SELECT * FROM start_tool($1, $2, $3, $4, $5, $6, $7, $8)"
_BEGUN = """
SELECT path, ordinal, name, digest, call_id FROM tool_calls
 WHERE thread_key = $1 AND origin = $2 AND state = 'started' ORDER BY path, ordinal
"""
_END = "SELECT * FROM end_tool($1, $2, $3, $4, $5, $6, $7, $8)"


class LedgerToolCalls:
    """Implements `turnstream.graph.ports.tools.ToolCalls` for one attempt, whose `hold` it ends.

    `flush` commits what waits to be committed. `FencedError` and `DatabaseUnavailableError` end
    the attempt, as with its commits: the next owner finds out whether a call was recorded.
    """

    def __init__(
        self,
        hold: Hold,
        flush: Callable[[], Awaitable[None]],
        commits: CommitPool,
        serde: SerializerProtocol,
        *,
        origin: UUID,
    ) -> None:
        self.thread_key = hold.thread_key
        self.origin = origin
        self._hold = hold
        self._flush = flush
        self._commits = commits
        self._serde = serde
        self.open: dict[tuple[str, int], ToolCall] = {}

    async def start(self, call: ToolCall) -> Known:
        """Record the start, after committing everything that waits to be committed.

        Otherwise a crash could lose the message that asks for the call, and with it the call's
        path.
        """
        await self._flush()
        if self._hold.stopped:
            raise asyncio.CancelledError
        row = await self._row(_START, call, call.name, call.tool_call_id, call.digest)
        found, kind, result, cancel = row
        if found == "cancelled":
            self._hold.cancelled(cancel)
            raise asyncio.CancelledError
        if found == "done":
            return Known("done", self._serde.loads_typed((kind, result)))
        return Known(found)

    async def finish(self, call: ToolCall, result: object) -> None:
        """Record the result, also if the caller is cancelled meanwhile."""
        try:
            kind, data = self._serde.dumps_typed(result)
        except (TypeError, ValueError, UnstorableStateError) as error:
            said = f"the result of {call.name} cannot be stored: {error}"
            raise UnstorableStateError(said) from error
        await self._end(call, "done", kind, data)

    async def ask(self, call: ToolCall) -> None:
        """Record that the call stopped with a question: it is called again with the answer."""
        await self._end(call, "asked", None, None)

    async def begun(self) -> list[ToolCall]:
        """Return the chain's calls that began, in any attempt, and have no result."""
        rows = await self._commits.fetch(_BEGUN, self.thread_key, self.origin)
        return [
            ToolCall(path, ordinal, name, digest, "", call_id)
            for path, ordinal, name, digest, call_id in rows
        ]

    async def _end(self, call: ToolCall, state: str, kind: str | None, data: bytes | None) -> None:
        # in a task of its own, because the result of a cancelled caller counts too
        ending = asyncio.create_task(self._row(_END, call, state, kind, data))
        ending.add_done_callback(_look_at)
        (cancel,) = await asyncio.shield(ending)
        if cancel is not None:
            self._hold.cancelled(cancel)

    async def _row(self, sql: str, call: ToolCall, *rest: object) -> Record:
        hold = self._hold
        hold.check()
        values = (self.thread_key, hold.epoch, self.origin, call.path, call.ordinal, *rest)
        rows = await hold.sent(self._commits.fetch(sql, *values))
        return rows[0]


def _look_at(task: asyncio.Task[object]) -> None:
    """Retrieve the task's error, because a cancelled caller does not."""
    if not task.cancelled():
        task.exception()
