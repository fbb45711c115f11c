"""States for `values` snapshots: the readers of one event share one read."""

from __future__ import annotations

import asyncio
from typing import Protocol

import structlog

from turnstream.schemas.errors import TurnstreamError

_log = structlog.get_logger(__name__)


class ReadsState(Protocol):
    """Reads a thread's committed state."""

    async def values(self, key: str) -> bytes:
        """Return the values as JSON text."""
        ...


class Snapshots:
    """Reads states for `values` snapshots."""

    def __init__(self, state: ReadsState) -> None:
        self._state = state
        self._reads: dict[tuple[str, str], asyncio.Task[bytes]] = {}

    async def of(self, key: str, event_id: str) -> bytes:
        """Return the thread's values as JSON text; `{}` if they cannot be read now."""
        name = (key, event_id)
        read = self._reads.get(name)
        if read is None:
            read = self._reads[name] = asyncio.create_task(self._read(key))
            read.add_done_callback(lambda _read: self._reads.pop(name, None))
        return await asyncio.shield(read)

    async def _read(self, key: str) -> bytes:
        try:
            return await self._state.values(key)
        except TurnstreamError as error:
            _log.warning("state_not_read", thread=key, code=error.code)
            return b"{}"
