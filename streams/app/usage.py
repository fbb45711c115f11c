"""The composition of what the usage processor stores."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from turnstream.connectors.postgres.pools import ledger_pool
from turnstream.connectors.postgres.stores.usage import UsageStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from turnstream.streams.app.settings import Settings


@asynccontextmanager
async def open_usage_store(settings: Settings) -> AsyncIterator[UsageStore]:
    """Open the store of the usage processor: two connections, one for counting."""
    async with ledger_pool(
        settings.database_url.get_secret_value(),
        size_max=2,
        statement_timeout_s=settings.statement_timeout_s,
    ) as pool:
        yield UsageStore(pool)
