"""The twin of the ledger of tool calls."""

from __future__ import annotations

from uuid import UUID

from turnstream.schemas.tool_calls import Known, ToolCall

ORIGIN = UUID("00000000-0000-7000-8000-000000000000")


class MemoryToolCalls:
    """A ledger of tool calls that is never fenced: `graph.ports.tools.ToolCalls`.

    `rows` outlives an attempt: hand it to the next one's.
    """

    def __init__(
        self,
        rows: dict[tuple[UUID, str, int], tuple[bytes, str, object]] | None = None,
        *,
        thread_key: str = "default/t",
        origin: UUID = ORIGIN,
    ) -> None:
        self.rows = {} if rows is None else rows
        self.thread_key, self.origin = thread_key, origin
        self.open: dict[tuple[str, int], ToolCall] = {}

    async def start(self, call: ToolCall) -> Known:
        """Record the start, or return what there is."""
        digest, state, result = self.rows.get(self._key(call), (call.digest, "asked", None))
        if digest != call.digest:
            return Known("other")
        if state == "done":
            return Known("done", result)
        self.rows[self._key(call)] = (digest, "started", (call.name, call.tool_call_id))
        return Known("new" if state == "asked" else "started")

    async def finish(self, call: ToolCall, result: object) -> None:
        """Record the result."""
        self._end(call, "done", result)

    async def begun(self) -> list[ToolCall]:
        """Return the chain's calls that began, in any attempt, and have no result."""
        return [
            ToolCall(path, ordinal, begun[0], digest, "", begun[1])
            for (origin, path, ordinal), (digest, state, begun) in self.rows.items()
            if origin == self.origin and state == "started" and isinstance(begun, tuple)
        ]

    async def ask(self, call: ToolCall) -> None:
        """Record that the call stopped with a question."""
        self._end(call, "asked", None)

    def _end(self, call: ToolCall, state: str, result: object) -> None:
        digest, before, _ = self.rows[self._key(call)]
        if before == "started":
            self.rows[self._key(call)] = (digest, state, result)

    def _key(self, call: ToolCall) -> tuple[UUID, str, int]:
        return self.origin, call.path, call.ordinal
