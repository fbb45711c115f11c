"""The tail of `turn-events`: every partition, no group, each record to those who follow its key.

One loop a broker fetches what it leads and never sleeps between fetches (`fetch_max_wait_ms` is the
knob). Fetched bytes go into the ring as they are; records are told apart by key before anything is
decoded. Fetches go straight through aiokafka's client, because its consumer makes an object of each
record whether anybody wants it or not, and does not hand out the raw bytes. Reads Kafka only.

Ready: every partition has reached the end that stood at start. The tail ends with an error when the
topic was deleted or made anew: offsets then mean other records, and the process has to start again.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol
from uuid import UUID

import structlog
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import (
    KafkaError,
    NotLeaderForPartitionError,
    OffsetOutOfRangeError,
    UnknownTopicOrPartitionError,
    for_code,
)
from aiokafka.structs import TopicPartition

from turnstream.connectors.kafka.read.batches import (
    BATCH_BYTES_MAX,
    Budget,
    batch_records,
    made_readable,
    next_offset,
)
from turnstream.connectors.kafka.read.log_reads import LATEST, LogReads
from turnstream.connectors.kafka.read.ring import Ring
from turnstream.connectors.kafka.read.scan import partition_of
from turnstream.connectors.kafka.wire.connection import Wire
from turnstream.connectors.kafka.wire.fetch_request import (
    FETCH,
    FETCH_VERSION,
    Fetched,
    FetchSession,
)
from turnstream.connectors.kafka.wire.metadata_request import DescribeTopics
from turnstream.schemas.errors import (
    KafkaUnavailableError,
    NotFoundError,
    TopicChangedError,
    UnavailableError,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

_log = structlog.get_logger(__name__)

REQUEST_TIMEOUT_MS = 10_000
"""A broker that answers nothing is left after it; an answer's bytes come at more than 1.6 MB/s."""
_PAUSE_S = 0.1
_REOPEN_S = 0.5
_LEADERS_S = 1.0
# the broker restarted, or gave the session's room to others: no reason to pause
_SESSION_OVER = frozenset({70, 71})


class Numbering(Protocol):
    """Gives the ids of a topic their incarnations."""

    async def number(self, topic: str, topic_id: UUID) -> int:
        """Return the incarnation of this id."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TailOptions:
    """Bounds of a tail. `warm_s`: how far back it starts, so that the ring is not empty."""

    ring_bytes_max: int = 256 << 20
    warm_s: float = 60.0
    fetch_max_wait_ms: int = 500
    fetch_min_bytes: int = 1
    fetch_bytes_max: int = 16 << 20
    partition_fetch_bytes_max: int = 1 << 20
    log_reads_max: int = 4
    held_max: int = 256
    batch_bytes_max: int = BATCH_BYTES_MAX
    topic_check_s: float = 10.0


class Tail:
    """Follow a topic's end. `run` is its life; `ready` is set once it has caught up."""

    def __init__(
        self,
        bootstrap: str,
        topic: str,
        numbering: Numbering,
        options: TailOptions | None = None,
        **client: Any,
    ) -> None:
        self.topic = topic
        self.options = options or TailOptions()
        self.ready = asyncio.Event()
        self.incarnation = 0
        self.records = 0
        self.followed_records = 0
        self.fetches = 0
        self.lost: Callable[[int], None] = lambda _partition: None
        self._numbering = numbering
        client = {"request_timeout_ms": REQUEST_TIMEOUT_MS, **client}
        self._client = AIOKafkaClient(bootstrap_servers=bootstrap, **client)
        self._log = LogReads(
            AIOKafkaClient(bootstrap_servers=bootstrap, **client),
            topic,
            bytes_max=self.options.fetch_bytes_max,
            max_wait_ms=self.options.fetch_max_wait_ms,
            reads_max=self.options.log_reads_max,
            batch_bytes_max=self.options.batch_bytes_max,
        )
        self._ring = Ring(self.options.ring_bytes_max)
        self._sinks: dict[bytes, Callable[[int, int, bytes], None]] = {}
        self._positions: dict[int, int] = {}
        self._starts: dict[int, int] = {}
        self._boot_ends: dict[int, int] = {}
        self._behind: set[int] = set()
        self._topic_id = UUID(int=0)
        self._fetched_at = 0.0

    # what followers use

    def follow(self, key: bytes, sink: Callable[[int, int, bytes], None]) -> None:
        """Call `sink(partition, offset, value)` for each record of the key from now on."""
        self._sinks[key] = sink

    def unfollow(self, key: bytes) -> None:
        """Stop calling."""
        self._sinks.pop(key, None)

    def end(self, partition: int) -> int:
        """Return the offset after the last record that followers were told of."""
        return self._ring.end(partition)

    def held(self, partition: int, key: bytes, first: int) -> list[tuple[int, bytes]] | None:
        """Return the key's next records from `first` on; None if the ring no longer holds `first`.

        At most about `held_max`; an empty list means that there are none up to `end`.
        """
        return self._ring.held(partition, key, first, self.options.held_max)

    async def bounds(self, partition: int) -> tuple[int, int]:
        """Ask for the partition's first offset and its end."""
        return await self._log.bounds(partition)

    async def at_time(self, partition: int, unix_ms: int) -> int:
        """Return the first offset at or after a time; the end if there is none."""
        return await self._log.at_time(partition, unix_ms)

    async def read(
        self, partition: int, key: bytes, first: int
    ) -> AsyncGenerator[tuple[int, list[tuple[int, bytes]]], None]:
        """Read the log itself from `first` on, up to where the ring begins.

        Yields the offset reached and the key's records before it. At most `log_reads_max` at once.
        """
        position = first
        async with self._log.reading:
            while position < self._ring.begins(partition):
                raw, start = await self._log.fetch(partition, position)
                reached = next_offset(raw) if raw else None
                entries: list[tuple[int, bytes]] = []
                if reached is not None:
                    entries = [
                        (offset, value)
                        for offset, record_key, value in batch_records(raw, position)
                        if record_key == key and value is not None
                    ]
                position = max(start, position if reached is None else reached)
                yield position, entries

    @property
    def lag_s(self) -> float:
        """Return for how long no broker has answered, in seconds."""
        return max(0.0, time.monotonic() - self._fetched_at) if self._fetched_at else 0.0

    @property
    def ring_bytes(self) -> int:
        """Return how many bytes of log are held."""
        return self._ring.bytes

    def partition_of(self, key: bytes) -> int:
        """Return the partition that Kafka's default partitioner gives a key."""
        return partition_of(key, self.partitions)

    @property
    def partitions(self) -> int:
        """Return how many partitions the topic has."""
        return len(self._positions)

    # its life

    async def run(self) -> None:
        """Follow the topic until cancelled; raises `TopicChangedError`, `NotFoundError`."""
        try:
            while True:
                try:
                    await self._open()
                    break
                except UnavailableError as error:  # it answered a moment ago, and will again
                    _log.warning("tail waits", error=str(error))
                    await asyncio.sleep(_REOPEN_S)
            await self._follow()
        except ExceptionGroup as group:
            # one error is enough to end it; the others are of the same cause
            raise group.exceptions[0] from group
        finally:
            self.ready.clear()
            for client in (self._client, self._log.client):
                with contextlib.suppress(KafkaError, OSError):
                    await client.close()

    async def _follow(self) -> None:
        async with asyncio.TaskGroup() as group:
            loops: dict[int, asyncio.Task[None]] = {}
            checked = time.monotonic()
            while True:
                for node in self._leaders():
                    if node not in loops or loops[node].done():
                        loops[node] = group.create_task(self._fetch_from(node))
                await asyncio.sleep(_LEADERS_S)
                if time.monotonic() - checked > self.options.topic_check_s:
                    checked = time.monotonic()
                    await self._check_topic()

    async def _open(self) -> None:
        try:
            for client in (self._client, self._log.client):
                await client.bootstrap()
                await client.set_topics([self.topic])
                # another try's bootstrap has forgotten the topic, and its name is not new
                await client.force_metadata_update()
            self._topic_id = await self._read_topic_id()
            self.incarnation = await self._numbering.number(self.topic, self._topic_id)
            numbers = sorted(self._client.cluster.partitions_for_topic(self.topic) or ())
            if not numbers:
                raise KafkaUnavailableError(f"cannot tail {self.topic}: its partitions are unknown")
            ends = await self._log.offsets(dict.fromkeys(numbers, LATEST))
            since_ms = int((time.time() - self.options.warm_s) * 1000)
            warm = await self._log.offsets(dict.fromkeys(numbers, since_ms))
        except KafkaError as error:
            raise KafkaUnavailableError(f"cannot tail {self.topic}: {error!r}") from error
        for number in numbers:
            start = ends[number] if warm[number] < 0 else warm[number]
            self._positions[number] = start
            self._boot_ends[number] = ends[number]
            self._ring.restart(number, start)
        self._behind = {number for number in numbers if self._positions[number] < ends[number]}
        self._fetched_at = time.monotonic()
        if not self._behind:
            self.ready.set()

    def _leaders(self) -> set[int]:
        cluster = self._client.cluster
        found: set[int] = set()
        for number in self._positions:
            node = cluster.leader_for_partition(TopicPartition(self.topic, number))
            if node is None or node == -1:
                self._client.force_metadata_update()
            else:
                found.add(node)
        return found

    def _led_by(self, node: int) -> list[int]:
        leader = self._client.cluster.leader_for_partition
        return [n for n in self._positions if leader(TopicPartition(self.topic, n)) == node]

    async def _fetch_from(self, node: int) -> None:
        """Fetch from one broker until it leads nothing of the topic."""
        options = self.options
        session = FetchSession(
            self.topic,
            max_wait_ms=options.fetch_max_wait_ms,
            min_bytes=options.fetch_min_bytes,
            max_bytes=options.fetch_bytes_max,
            partition_bytes_max=options.partition_fetch_bytes_max,
        )
        wire: Wire | None = None
        led: list[int] = []
        looked_at = -math.inf
        while True:
            # a leader that changes answers with an error, or not at all
            if time.monotonic() - looked_at > _LEADERS_S:
                led, looked_at = self._led_by(node), time.monotonic()
            if not led:
                return
            positions = self._positions
            request = session.request({number: positions[number] for number in led})
            try:
                if wire is None or wire.lost:
                    wire = await Wire.open(self._client, node, REQUEST_TIMEOUT_MS / 1000)
                answer, at = await wire.request(FETCH, FETCH_VERSION, request.body)
            except KafkaError as error:
                _log.warning("fetch failed", node=node, error=repr(error))
                session.restart()
                await asyncio.sleep(_PAUSE_S)
                self._client.force_metadata_update()
                looked_at = -math.inf
                continue
            response = Fetched.parse(answer, at)
            session.answered(response)
            self.fetches += 1
            self._fetched_at = time.monotonic()
            if response.error and response.error not in _SESSION_OVER:
                _log.warning("fetch refused", node=node, error=for_code(response.error).__name__)
                await asyncio.sleep(_PAUSE_S)
            budget = Budget(options.batch_bytes_max)
            for number, code, raw in response.partitions:
                if code:
                    await self._refused(number, for_code(code))
                    looked_at = -math.inf
                elif raw:
                    self._took(number, await made_readable(raw, positions[number], budget))
            if self._behind:
                self._look_ready()

    def _took(self, number: int, raw: bytes) -> None:
        """Put fetched bytes into the ring and tell the followers, without an await between."""
        end = next_offset(raw)
        position = self._positions[number]
        if end is None or end <= position:  # what a former leader still had, come too late
            return
        keys: set[bytes] = set()
        sinks = self._sinks
        told: list[tuple[Callable[[int, int, bytes], None], int, bytes]] = []
        batches = batch_records(raw, position)
        for offset, key, value in batches:
            if key is None or value is None:
                continue
            keys.add(key)
            sink = sinks.get(key)
            if sink is not None:
                told.append((sink, offset, value))
            self.records += 1
        self._positions[number] = end
        self._ring.add(number, end, raw, keys)
        self.followed_records += len(told)
        for sink, offset, value in told:
            sink(number, offset, value)

    async def _refused(self, number: int, error: type[KafkaError]) -> None:
        if error in (NotLeaderForPartitionError, UnknownTopicOrPartitionError):
            self._client.force_metadata_update()
            await asyncio.sleep(_PAUSE_S)
            return
        if error is not OffsetOutOfRangeError:
            _log.warning("partition not readable", partition=number, error=error.__name__)
            await asyncio.sleep(_PAUSE_S)
            return
        await self._check_topic()
        first, end = await self.bounds(number)
        position = self._positions[number]
        if first <= position <= end:  # a former leader, frozen meanwhile, does not know its end
            self._client.force_metadata_update()
            await asyncio.sleep(_PAUSE_S)
            return
        # behind the log's start: retention was faster; past its end: an unclean election cut it
        start = first if position < first else end
        _log.error("log moved away", partition=number, position=position, first=first, end=end)
        self._positions[number] = start
        self._ring.restart(number, start)
        self.lost(number)

    def _look_ready(self) -> None:
        self._behind = {n for n in self._behind if self._positions[n] < self._boot_ends[n]}
        if not self._behind:
            self.ready.set()

    async def _check_topic(self) -> None:
        try:
            topic_id = await self._read_topic_id()
        except KafkaError as error:
            _log.warning("topic not checked", error=repr(error))
            return
        if topic_id != self._topic_id:
            raise TopicChangedError(f"topic {self.topic} was made anew")

    async def _read_topic_id(self) -> UUID:
        node = self._client.get_random_node()
        response = await self._client.send(node, DescribeTopics([self.topic]))
        for row in response.to_object()["topics"]:
            if row["name"] == self.topic and row["error_code"] == 0:
                topic_id: UUID = row["topic_id"]
                return topic_id
        raise NotFoundError(f"there is no topic {self.topic}", code="unknown_topic")
