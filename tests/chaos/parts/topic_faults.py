"""A fault of a topic: for a moment the broker refuses every record of the log."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError

from tests.chaos.faults import NothingToStrikeError, fault
from turnstream.connectors.kafka.admin import TopicAdmin
from turnstream.schemas.errors import KafkaUnavailableError

if TYPE_CHECKING:
    from tests.chaos.faults import Stage

_LIMIT = "max.message.bytes"
TOO_SMALL = "64"
"""Bytes; every batch is larger by its head alone."""
_AWAY = (KafkaError, KafkaUnavailableError)
HEAL_S = 60.0
_AGAIN_S = 0.1


@fault
class RefuseRecords:
    """`max.message.bytes` of the events' topic is lowered, so that every batch is refused."""

    name = "refuse-records"
    scope = "stage"
    lasts_s = 0.2

    async def strike(self, stage: Stage) -> None:
        """Lower it; not while Kafka is away for another fault."""
        try:
            await _alter(stage, {_LIMIT: TOO_SMALL})
        except _AWAY as error:
            await self.heal(stage)  # the broker may have heard it all the same
            raise NothingToStrikeError(f"Kafka is away: {error!r}") from error

    async def heal(self, stage: Stage) -> None:
        """Set it to what it was, once Kafka is there."""
        async with asyncio.timeout(HEAL_S):
            while True:
                try:
                    await _alter(stage, {})
                except _AWAY:
                    await asyncio.sleep(_AGAIN_S)
                else:
                    return


async def _alter(stage: Stage, changes: dict[str, str]) -> None:
    """Set the topic's settings to those it was made with and these; a request replaces all."""
    settings = stage.settings
    name = settings.topics.events
    made = next(t for t in settings.topics.all(settings.tenants, 1) if t.name == name)
    async with TopicAdmin(settings.kafka_bootstrap) as topics:
        _, durability = await topics._durability()
    config: dict[str, Any] = {**durability, **made.config, **changes}
    admin = AIOKafkaAdminClient(bootstrap_servers=settings.kafka_bootstrap)
    await admin.start()
    try:
        for answer in await admin.alter_configs(
            [ConfigResource(ConfigResourceType.TOPIC, name, configs=config)]
        ):
            codes = [row[0] for row in answer.resources]
            assert codes == [0], answer
    finally:
        await admin.close()
