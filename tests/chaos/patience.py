"""The campaign's own connections to Postgres, which wait while it is down."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from tests.chaos.graphs.counting import AWAY

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import asyncpg

_PATIENCE_S = 40.0
_PAUSE_S = 0.05


class PatientPool:
    """A pool whose statements are tried again while the server is down.

    For statements that may run twice: one whose answer was lost runs again.
    """

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def fetch(self, statement: str, *values: Any) -> list[Any]:
        return await self._patiently(lambda: self._pool.fetch(statement, *values))

    async def fetchval(self, statement: str, *values: Any) -> Any:
        return await self._patiently(lambda: self._pool.fetchval(statement, *values))

    async def execute(self, statement: str, *values: Any) -> Any:
        return await self._patiently(lambda: self._pool.execute(statement, *values))

    async def close(self) -> None:
        await self._pool.close()

    async def _patiently(self, call: Callable[[], Awaitable[Any]]) -> Any:
        async with asyncio.timeout(_PATIENCE_S):
            while True:
                try:
                    return await call()
                except AWAY:
                    await asyncio.sleep(_PAUSE_S)
