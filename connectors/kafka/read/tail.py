"""The tail of `turn-events`: every partition, no group, each record to the followers of its key.

`Fetching` brings the bytes, `Followed` holds them and calls the followers, `LogReads` reads what
the ring no longer holds. Reads Kafka only.

Ready: every partition has reached the end that stood at start. The tail ends with an error when the
topic was deleted or made anew: offsets then mean other records, and the process has to start again.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaError

from turnstream.connectors.kafka.read.batches import BATCH_BYTES_MAX
from turnstream.connectors.kafka.read.fetching import LEADERS_S, Fetching
from turnstream.connectors.kafka.read.followed import Followed
from turnstream.connectors.kafka.read.log_reads import LATEST, LogReads
from turnstream.connectors.kafka.read.scan import partition_of
from turnstream.connectors.kafka.read.topic_identity import TopicIdentity
from turnstream.connectors.kafka.wire.clients import (
    AWAY_PAUSE_S,
    REQUEST_TIMEOUT_MS,
    client_options,
)
from turnstream.schemas.errors import KafkaUnavailableError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from turnstream.connectors.kafka.read.followed import Lost, Sink
    from turnstream.connectors.kafka.read.topic_identity import Numbering

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class TailOptions:
    """Bounds of a tail. `warm_s`: how far back it starts, so that the ring is not empty.

    `held_max`: records that one call of `held` returns, about. `log_reads_max`: readers in the log
    at once. `topic_check_s`: how often the topic's id is compared.
    """

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
        **client: object,
    ) -> None:
        self.topic = topic
        self.options = options or TailOptions()
        self.incarnation = 0
        client = client_options(bootstrap, {"request_timeout_ms": REQUEST_TIMEOUT_MS, **client})
        self._client = AIOKafkaClient(**client)
        self._log = LogReads(
            AIOKafkaClient(**client),
            topic,
            bytes_max=self.options.fetch_bytes_max,
            max_wait_ms=self.options.fetch_max_wait_ms,
            reads_max=self.options.log_reads_max,
            batch_bytes_max=self.options.batch_bytes_max,
        )
        self._followed = Followed(self.options.ring_bytes_max)
        self.ready = self._followed.ready
        self._identity = TopicIdentity(self._client, topic, numbering)
        self._fetching = Fetching(
            self._client,
            topic,
            self._followed,
            log=self._log,
            identity=self._identity,
            options=self.options,
        )

    # what followers use

    def follow(self, key: bytes, sink: Sink, lost: Lost) -> None:
        """Call `sink(partition, offset, value)` for each record of the key from now on.

        `lost(partition)` is called where records are missing: what was read before does not go on.
        """
        self._followed.follow(key, sink, lost)

    def unfollow(self, key: bytes) -> None:
        """Stop calling."""
        self._followed.unfollow(key)

    def end(self, partition: int) -> int:
        """Return the offset after the last record that followers were told of."""
        return self._followed.ring.end(partition)

    def held(self, partition: int, key: bytes, first: int) -> list[tuple[int, bytes]] | None:
        """Return the key's next records from `first` on; None if the ring no longer holds `first`.

        At most about `held_max`; an empty list means that there are none up to `end`.
        """
        return self._followed.ring.held(partition, key, first, self.options.held_max)

    async def bounds(self, partition: int) -> tuple[int, int]:
        """Ask for the partition's first offset and its end."""
        return await self._log.bounds(partition)

    async def at_time(self, partition: int, unix_ms: int) -> int:
        """Return the first offset at or after a time; the end if there is none."""
        return await self._log.at_time(partition, unix_ms)

    def read(
        self, partition: int, key: bytes, first: int
    ) -> AsyncGenerator[tuple[int, list[tuple[int, bytes]]], None]:
        """Read the log itself from `first` on, up to where the ring begins.

        Yields the offset reached and the key's records before it. At most `log_reads_max` at once.
        """
        ring = self._followed.ring
        return self._log.records(partition, key, first, lambda: ring.begins(partition))

    @property
    def lag_s(self) -> float:
        """Return for how long no broker has answered, in seconds."""
        since = self._fetching.answered_at
        return max(0.0, time.monotonic() - since) if since else 0.0

    @property
    def fetches(self) -> int:
        """Return how many fetches were answered."""
        return self._fetching.fetches

    @property
    def records(self) -> int:
        """Return how many records came."""
        return self._followed.records

    @property
    def followed_records(self) -> int:
        """Return how many of them had a follower."""
        return self._followed.followed_records

    @property
    def ring_bytes(self) -> int:
        """Return how many bytes of log are held."""
        return self._followed.ring.bytes

    def partition_of(self, key: bytes) -> int:
        """Return the partition that Kafka's default partitioner gives a key."""
        return partition_of(key, self.partitions)

    @property
    def partitions(self) -> int:
        """Return how many partitions the topic has."""
        return len(self._followed.positions)

    # its life

    async def run(self) -> None:
        """Follow the topic until cancelled; raises `TopicChangedError`, `NotFoundError`."""
        try:
            while True:
                try:
                    await self._open()
                    break
                except UnavailableError as error:  # it answered a moment ago, and will again
                    _log.warning("tail_waits", topic=self.topic, error=str(error))
                    await asyncio.sleep(AWAY_PAUSE_S)
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
                for node in self._fetching.leaders():
                    if node not in loops or loops[node].done():
                        loops[node] = group.create_task(self._fetching.from_broker(node))
                await asyncio.sleep(LEADERS_S)
                if time.monotonic() - checked > self.options.topic_check_s:
                    checked = time.monotonic()
                    await self._identity.check()

    async def _open(self) -> None:
        try:
            for client in (self._client, self._log.client):
                await client.bootstrap()
                await client.set_topics([self.topic])
                # another try's bootstrap has forgotten the topic, and its name is not new
                await client.force_metadata_update()
            self.incarnation = await self._identity.learn()
            numbers = sorted(self._client.cluster.partitions_for_topic(self.topic) or ())
            if not numbers:
                raise KafkaUnavailableError(f"cannot tail {self.topic}: its partitions are unknown")
            ends = await self._log.offsets(dict.fromkeys(numbers, LATEST))
            since_ms = int((time.time() - self.options.warm_s) * 1000)
            warm = await self._log.offsets(dict.fromkeys(numbers, since_ms))
        except KafkaError as error:
            raise KafkaUnavailableError(f"cannot tail {self.topic}: {error!r}") from error
        starts = {number: ends[number] if warm[number] < 0 else warm[number] for number in numbers}
        self._fetching.answered_at = time.monotonic()
        self._followed.begin(starts, ends)
