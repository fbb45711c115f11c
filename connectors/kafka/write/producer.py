"""The producer that the pump sends with: idempotent, acks=all, one request a leader and round.

aiokafka keeps the connections and the metadata, and builds the batches. Its queues, futures and
tasks between a batch and its request are left out, because the pump has queues of its own. At most
one batch of a partition is on its way, so its sequence is known when the batch is begun, and a
batch that is sent again is the same bytes. Writes to Kafka; reads metadata.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from aiokafka.client import AIOKafkaClient
from aiokafka.errors import NoError, for_code
from aiokafka.protocol.transaction import InitProducerIdRequest
from aiokafka.record.default_records import DefaultRecordBatchBuilder

from turnstream.connectors.kafka.wire.clients import REQUEST_TIMEOUT_MS, client_options, open_client
from turnstream.connectors.kafka.wire.connection import Wire
from turnstream.connectors.kafka.write.sending import RETRY_S, Sending
from turnstream.schemas.errors import ConfigurationError, KafkaUnavailableError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence

    from aiokafka import TopicPartition

    from turnstream.connectors.kafka.write.sending import Broken, Told

BATCH_BYTES_MAX = 512 << 10
"""Bytes of a batch: below every topic's `max.message.bytes`, which bounds batches, not records."""

_MAGIC = 2
_SEQUENCE_MASK = 0x7FFFFFFF
_ID_TRIES = 50


class Batch:
    """Records of one partition, in order."""

    __slots__ = ("_builder", "count")

    def __init__(self, producer_id: int, epoch: int, sequence: int) -> None:
        self._builder = DefaultRecordBatchBuilder(
            _MAGIC,
            0,
            is_transactional=0,
            producer_id=producer_id,
            producer_epoch=epoch,
            base_sequence=sequence,
            batch_size=BATCH_BYTES_MAX,
        )
        self.count = 0

    def append(self, key: bytes, value: bytes, headers: list[tuple[str, bytes]]) -> bool:
        """Append a record; False if the batch has no room for it beside the others."""
        took = self._builder.append(self.count, None, key, value, headers)
        if took is None:
            return False
        self.count += 1
        return True

    def build(self) -> bytes:
        """Return the bytes, and take no further records."""
        data: bytes = bytes(self._builder.build())
        return data


class Producer:
    """One producer id. A refused batch spends its partition's sequence: open another producer then.

    The pump makes sure that at most one batch of a partition is on its way.
    """

    def __init__(
        self,
        client: AIOKafkaClient,
        open_wire: Callable[[AIOKafkaClient, int, float], Awaitable[Wire]] = Wire.open,
    ) -> None:
        self._client = client
        self._open_wire = open_wire
        self._wires: dict[int, Wire] = {}
        self._opening = asyncio.Lock()
        self._id, self._epoch = -1, -1
        self._next: dict[TopicPartition, int] = {}
        self._away = 0
        self._none_away = asyncio.Event()
        self._sending: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Ask for the producer id; raises `KafkaError`."""
        for _ in range(_ID_TRIES):
            node = self._client.get_random_node()
            answer = await self._client.send(node, InitProducerIdRequest(None, 0))
            error = for_code(answer.error_code)
            if error is NoError:
                self._id, self._epoch = answer.producer_id, answer.producer_epoch
                return
            if not error.retriable:
                raise error()
            await asyncio.sleep(RETRY_S)
        raise KafkaUnavailableError("no producer id")

    async def stop(self) -> None:
        """Wait until every batch has its answer, then close the connections."""
        try:
            while self._away:
                self._none_away.clear()
                await self._none_away.wait()
        finally:
            for task in self._sending:
                task.cancel()
            await self._client.close()

    def leader(self, to: TopicPartition) -> int:
        """Return the partition's leader, -1 where none is known."""
        node = self._client.cluster.leader_for_partition(to)
        return -1 if node is None else int(node)

    def batch(self, to: TopicPartition) -> Batch:
        """Begin the partition's next batch."""
        return Batch(self._id, self._epoch, self._next.get(to, 0))

    def send(
        self,
        node: int,
        batches: Mapping[TopicPartition, Batch],
        told: Told,
        broken: Broken,
    ) -> None:
        """Send batches to the broker that leads them, in one request.

        `told` is called once for each batch, `broken` for an error that nothing expects.
        """
        data: dict[TopicPartition, bytes] = {}
        for to, batch in batches.items():
            self._next[to] = self._next.get(to, 0) + batch.count & _SEQUENCE_MASK
            data[to] = batch.build()
        self._away += len(data)
        Sending(self, data, told, broken).begin(self._wires.get(node))

    async def wire(self, node: int) -> Wire:
        """Return the connection to a broker. Raises `KafkaError`."""
        async with self._opening:  # a connection has room for one wire
            wire = self._wires.get(node)
            if wire is None or wire.lost:
                timeout_s = REQUEST_TIMEOUT_MS / 1000
                wire = self._wires[node] = await self._open_wire(self._client, node, timeout_s)
            return wire

    async def probe(self) -> bool:
        """Update the metadata, which has the leaders; return whether a broker answered."""
        return bool(await self._client.force_metadata_update())

    def lacks(self, to: TopicPartition) -> bool:
        """Return whether the metadata has the topic without this partition."""
        known = self._client.cluster.partitions_for_topic(to.topic)
        return known is not None and to.partition not in known

    def settled(self) -> None:
        """Count a batch that has its answer."""
        self._away -= 1
        if not self._away:
            self._none_away.set()

    def spawn(self, work: Coroutine[object, object, None], broken: Broken) -> None:
        """Run work in a task; an error in it goes to `broken`."""

        def ended(task: asyncio.Task[None]) -> None:
            self._sending.discard(task)
            if not task.cancelled() and (error := task.exception()) is not None:
                broken(error)

        task = asyncio.create_task(work)
        self._sending.add(task)
        task.add_done_callback(ended)


def pump_producer(
    bootstrap: str, topics: Sequence[str], *, client_id: str = "turnstream-pump", **client: object
) -> Callable[[], Awaitable[Producer]]:
    """Return a function that opens a producer for the pump.

    It fetches the metadata of `topics`, so that no round waits for it. It raises
    `KafkaUnavailableError` where Kafka does not answer and `ConfigurationError` where one of the
    topics does not exist. `client` are aiokafka's connection options.
    """

    async def open_producer() -> Producer:
        connections = AIOKafkaClient(
            client_id=client_id,
            request_timeout_ms=REQUEST_TIMEOUT_MS,
            **client_options(bootstrap, client),
        )
        producer = Producer(connections)

        async def start() -> None:
            await connections.bootstrap()
            await _know(connections, topics)
            await producer.start()

        await open_client(start, connections.close, bootstrap)
        return producer

    return open_producer


async def _know(client: AIOKafkaClient, topics: Sequence[str]) -> None:
    missing = sorted(set(topics) - (await client.fetch_all_metadata()).topics())
    if missing:
        raise ConfigurationError(f"topics that do not exist: {', '.join(missing)}")
    await client.set_topics(topics)
