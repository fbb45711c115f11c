"""Publishes the results of turns, each on its tenant's topic."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from aiokafka import TopicPartition

from turnstream.connectors.kafka.read.scan import partition_of
from turnstream.connectors.kafka.write.outgoing import RECORD_OVERHEAD
from turnstream.schemas.records.result_json import json_of_result
from turnstream.schemas.topics import EVENT_BYTES_MAX

if TYPE_CHECKING:
    from collections.abc import Container, Mapping

    from turnstream.connectors.avro import Codec
    from turnstream.connectors.kafka.write.pump import Pump
    from turnstream.schemas.records.results import TurnResult
    from turnstream.schemas.topics import Topics


class Results:
    """Publishes through the pump and waits for the acks.

    `wire` encodes results, except for `json_tenants`, whose results are JSON. `partitions`: of each
    topic that exists, by name.
    """

    def __init__(
        self,
        pump: Pump,
        topics: Topics,
        partitions: Mapping[str, int],
        *,
        wire: Codec,
        json_tenants: Container[str] = (),
    ) -> None:
        self._pump = pump
        self._topics = topics
        self._partitions = partitions
        self._wire = wire
        self._json_tenants = json_tenants

    async def publish(self, result: TurnResult, key: bytes) -> None:
        """Publish a result, if its tenant has a topic for results. Raises `ProduceRefusedError`.

        One that the topic would refuse for its size goes without its text, which is in the log.
        """
        topic = self._topics.results_of(result.tenant)
        if topic not in self._partitions:
            return
        encode = json_of_result if result.tenant in self._json_tenants else self._wire.encode
        value = encode(result)
        if len(value) + len(key) + RECORD_OVERHEAD > EVENT_BYTES_MAX:
            value = encode(msgspec.structs.replace(result, text=""))
        to = TopicPartition(topic, partition_of(key, self._partitions[topic]))
        await self._pump.deliver(to, key, value, headers=[("type", b"TurnResult")])
