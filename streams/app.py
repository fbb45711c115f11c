"""The composition root: the only place that knows every adapter.

Each `open_*` is an async context manager over an `AsyncExitStack`: what it opened is closed in
reverse order. Parts can be passed by keyword, so that tests put a twin in place.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from turnstream.connectors.postgres.pools import ledger_pool
from turnstream.connectors.postgres.usage import UsageStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from turnstream.streams.settings import Settings


@asynccontextmanager
async def open_usage_store(settings: Settings) -> AsyncIterator[UsageStore]:
    """Open the store of the usage processor: two connections, one for counting."""
    async with ledger_pool(
        settings.database_url.get_secret_value(),
        size_max=2,
        statement_timeout_s=settings.statement_timeout_s,
    ) as pool:
        yield UsageStore(pool)
