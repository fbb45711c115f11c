"""Set-up of the producer that the pump sends with. Writes to Kafka; reads metadata."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from turnstream.schemas.errors import ConfigurationError, KafkaUnavailableError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from turnstream.connectors.kafka.pump import OpenProducer

BATCH_BYTES_MAX = 512 << 10
"""Of one batch: below every topic's `max.message.bytes`, which bounds batches and not records."""


def pump_producer(
    bootstrap: str, topics: Sequence[str], *, client_id: str = "turnstream-pump", **client: Any
) -> OpenProducer:
    """Return what opens a producer for the pump: idempotent, acks=all, no linger of its own.

    Metadata of `topics` is fetched at once, so that no round waits for it. The producer raises
    `KafkaUnavailableError` where Kafka does not answer and `ConfigurationError` where one of the
    topics does not exist. `client` are aiokafka's connection options.
    """

    async def open_producer() -> AIOKafkaProducer:
        producer = AIOKafkaProducer(
            bootstrap_servers=bootstrap,
            client_id=client_id,
            enable_idempotence=True,
            acks="all",
            linger_ms=0,
            max_batch_size=BATCH_BYTES_MAX,
            **client,
        )
        try:
            await producer.start()
            await _know(producer, topics)
        except KafkaError as error:
            await producer.stop()
            raise KafkaUnavailableError(f"Kafka at {bootstrap}: {error!r}") from error
        except BaseException:
            await producer.stop()
            raise
        return producer

    return open_producer


async def _know(producer: AIOKafkaProducer, topics: Sequence[str]) -> None:
    missing = sorted(set(topics) - (await producer.client.fetch_all_metadata()).topics())
    if missing:
        raise ConfigurationError(f"topics that do not exist: {', '.join(missing)}")
    for topic in topics:
        await producer.partitions_for(topic)
