"""What has to exist before a process can work: tables and topics, made once and then checked."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from turnstream.connectors.kafka.admin import TopicAdmin
from turnstream.connectors.postgres.migrate import migrate
from turnstream.schemas.errors import ConfigurationError

if TYPE_CHECKING:
    from turnstream.streams.settings import Settings

log = structlog.get_logger(__name__)


async def prepare(settings: Settings) -> None:
    """Migrate the database and make missing topics; safe when many processes start at once.

    A topic that differs from what is wanted is logged and left alone; raises `ConfigurationError`
    where it differs so that a promise would not hold.
    """
    await asyncio.to_thread(migrate, settings.direct_url)
    wanted = settings.topics.all(settings.tenants, settings.partitions)
    async with TopicAdmin(settings.kafka_bootstrap, replication=settings.replication) as admin:
        await admin.create(wanted)
        drifts = await admin.check(wanted)
    for drift in drifts:
        log.warning("topic_differs", drift=str(drift))
    if breaking := [str(drift) for drift in drifts if drift.breaks]:
        raise ConfigurationError("; ".join(breaking))
