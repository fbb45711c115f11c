"""The composition of the dead letters, for the command line and the edge."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from turnstream.connectors.avro import Codec
from turnstream.connectors.kafka.read.scan import LogScan
from turnstream.connectors.postgres.pools import ledger_pool
from turnstream.connectors.postgres.stores.letters import Letters
from turnstream.connectors.registry import open_codec
from turnstream.graph.langgraph.catalog import Catalog
from turnstream.streams.letters.dead_letters import DeadLetters
from turnstream.streams.worker.admission import Rules

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import asyncpg

    from turnstream.streams.app.settings import Settings


@asynccontextmanager
async def open_dead_letters(settings: Settings) -> AsyncIterator[DeadLetters]:
    """Open the dead letters, to look at and to decide about."""
    codec = await open_codec(settings.schema_registry_url)
    async with ledger_pool(
        settings.database_url.get_secret_value(),
        size_max=2,
        statement_timeout_s=settings.statement_timeout_s,
    ) as pool:
        yield dead_letters_of(settings, pool, codec, Catalog())


def dead_letters_of(
    settings: Settings, pool: asyncpg.Pool, wire: Codec, graphs: Catalog
) -> DeadLetters:
    """Return the dead letters over a pool; `graphs` judges whether a letter would be taken now."""
    topics = settings.topics
    rules = Rules(
        wire=wire,
        store=Codec(),
        graphs=graphs,
        partitions=settings.partitions,
        limits=settings.command_limits,
    )
    return DeadLetters(
        lambda: LogScan(settings.kafka_bootstrap, batch_bytes_max=settings.batch_bytes_max),
        topics.dead_letters,
        Letters(pool),
        rules,
        tenant_of=topics.tenant_of,
        inputs=topics.inputs(settings.tenants),
    )
