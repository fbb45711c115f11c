"""The producer that the pump sends with: idempotent, acks=all, one request a leader and round.

aiokafka keeps the connections and the metadata, and builds the batches. What it does between a
batch and its request (queues, futures, a task that waits for both) is left out: it cost a third of
a round. The pump has its own queues, and at most one batch a partition on its way. So a sequence is
known when a batch is begun, and what has to be sent again is sent again as it was. Writes to Kafka;
reads metadata.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Protocol

import structlog
from aiokafka import TopicPartition
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import (
    DuplicateSequenceNumber,
    KafkaError,
    NoError,
    UnknownTopicOrPartitionError,
    for_code,
)
from aiokafka.protocol.transaction import InitProducerIdRequest
from aiokafka.record.default_records import DefaultRecordBatchBuilder

from turnstream.connectors.kafka.produces import Produce
from turnstream.schemas.errors import ConfigurationError, KafkaUnavailableError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

log = structlog.get_logger(__name__)

BATCH_BYTES_MAX = 512 << 10
"""Of one batch: below every topic's `max.message.bytes`, which bounds batches and not records."""

REQUEST_TIMEOUT_MS = 40_000
RETRY_S = 0.1
_MAGIC = 2
_SEQUENCE_MASK = 0x7FFFFFFF
_ID_TRIES = 50


class Told(Protocol):
    """Hears what became of a batch: its first offset (-1 where unknown), or why it is refused."""

    def __call__(self, to: TopicPartition, offset: int, error: BaseException | None) -> None:
        """Take the answer."""
        ...


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
        """Take a record; False if it has no room beside the others."""
        took = self._builder.append(self.count, None, key, value, headers)
        if took is None:
            return False
        self.count += 1
        return True

    def build(self) -> bytes:
        """Return the bytes; nothing can be appended any more."""
        data: bytes = bytes(self._builder.build())
        return data


class Producer:
    """One producer id. A refused batch spends its partition's sequence: open another producer then.

    At most one batch a partition may be on its way; the pump sees to it.
    """

    def __init__(self, client: AIOKafkaClient) -> None:
        self._client = client
        self._id, self._epoch = -1, -1
        self._next: dict[TopicPartition, int] = {}
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
            while self._sending:
                await asyncio.wait(self._sending)
        finally:
            for task in self._sending:
                task.cancel()
            await self._client.close()

    async def probe(self) -> bool:
        """Ask a broker for metadata; tells whether one answered."""
        return bool(await self._client.force_metadata_update())

    def leader(self, to: TopicPartition) -> int:
        """Return the partition's leader, -1 where none is known."""
        node = self._client.cluster.leader_for_partition(to)
        return -1 if node is None else int(node)

    def batch(self, to: TopicPartition) -> Batch:
        """Begin the partition's next batch."""
        return Batch(self._id, self._epoch, self._next.get(to, 0))

    def send(
        self,
        batches: Mapping[TopicPartition, Batch],
        told: Told,
        broken: Callable[[BaseException], None],
    ) -> None:
        """Send batches, all in one request where one broker leads them.

        `told` is called once for each of them; `broken` for what must not happen.
        """
        data: dict[TopicPartition, bytes] = {}
        for to, batch in batches.items():
            self._next[to] = self._next.get(to, 0) + batch.count & _SEQUENCE_MASK
            data[to] = batch.build()
        task = asyncio.create_task(self._deliver(data, told))
        self._sending.add(task)
        task.add_done_callback(lambda task: self._sent(task, broken))

    def _sent(self, task: asyncio.Task[None], broken: Callable[[BaseException], None]) -> None:
        self._sending.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            broken(error)

    async def _deliver(self, left: dict[TopicPartition, bytes], told: Told) -> None:
        """Send until every batch is acknowledged or refused; the same bytes each time."""
        while left:
            by_leader: dict[int, dict[TopicPartition, bytes]] = {}
            for to, data in left.items():
                by_leader.setdefault(self.leader(to), {})[to] = data
            by_leader.pop(-1, None)
            for node, batches in by_leader.items():
                for to, offset, error in await self._request(node, batches):
                    del left[to]
                    told(to, offset, error)
            if left:
                await asyncio.sleep(RETRY_S)
                fresh = await self._client.force_metadata_update()
                for to in [to for to in left if fresh and self._lacks(to)]:
                    del left[to]
                    told(to, -1, UnknownTopicOrPartitionError(f"{to.topic}[{to.partition}]"))

    async def _request(
        self, node: int, batches: dict[TopicPartition, bytes]
    ) -> list[tuple[TopicPartition, int, BaseException | None]]:
        """Make one request; returns what is settled by it."""
        try:
            response = await self._client.send(
                node, Produce(batches, timeout_ms=REQUEST_TIMEOUT_MS)
            )
        except KafkaError as error:
            if not error.retriable:
                return [(to, -1, error) for to in batches]
            log.warning("produce_repeated", node=node, error=repr(error))
            return []
        settled: list[tuple[TopicPartition, int, BaseException | None]] = []
        for topic, partition, code, offset in response.answers:
            to = TopicPartition(topic, partition)
            if code == 0:
                settled.append((to, offset, None))
                continue
            error_type = for_code(code)
            if error_type is DuplicateSequenceNumber:  # it is in the log, nobody recalls where
                settled.append((to, -1, None))
            elif error_type.retriable:
                log.warning("produce_repeated", topic=topic, partition=partition, code=code)
            else:
                settled.append((to, -1, error_type()))
        return settled

    def _lacks(self, to: TopicPartition) -> bool:
        known = self._client.cluster.partitions_for_topic(to.topic)
        return known is not None and to.partition not in known


def pump_producer(
    bootstrap: str, topics: Sequence[str], *, client_id: str = "turnstream-pump", **client: Any
) -> Callable[[], Awaitable[Producer]]:
    """Return what opens a producer for the pump.

    Metadata of `topics` is fetched at once, so that no round waits for it. What is returned raises
    `KafkaUnavailableError` where Kafka does not answer and `ConfigurationError` where one of the
    topics does not exist. `client` are aiokafka's connection options.
    """

    async def open_producer() -> Producer:
        connections = AIOKafkaClient(
            bootstrap_servers=bootstrap,
            client_id=client_id,
            request_timeout_ms=REQUEST_TIMEOUT_MS,
            **client,
        )
        try:
            await connections.bootstrap()
            await _know(connections, topics)
            producer = Producer(connections)
            await producer.start()
        except KafkaError as error:
            await connections.close()
            raise KafkaUnavailableError(f"Kafka at {bootstrap}: {error!r}") from error
        except BaseException:
            await connections.close()
            raise
        return producer

    return open_producer


async def _know(client: AIOKafkaClient, topics: Sequence[str]) -> None:
    missing = sorted(set(topics) - (await client.fetch_all_metadata()).topics())
    if missing:
        raise ConfigurationError(f"topics that do not exist: {', '.join(missing)}")
    await client.set_topics(topics)
