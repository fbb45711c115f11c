"""Faust's Kafka transport, with a consumer that reads every fetch (`batches.readable`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from faust.transport.drivers.aiokafka import AIOKafkaConsumerThread, Consumer, Transport

from turnstream.connectors.kafka.wire.consumers import read_readable

if TYPE_CHECKING:
    from aiokafka import AIOKafkaConsumer


class _Thread(AIOKafkaConsumerThread):
    def _create_worker_consumer(self, transport: Any) -> AIOKafkaConsumer:
        consumer = super()._create_worker_consumer(transport)
        read_readable(consumer)
        return consumer


class _Consumer(Consumer):
    def _new_consumer_thread(self) -> AIOKafkaConsumerThread:
        return _Thread(self, loop=self.loop, beacon=self.beacon)


class ReadableTransport(Transport):
    """The transport of `UsageApp`."""

    Consumer = _Consumer
