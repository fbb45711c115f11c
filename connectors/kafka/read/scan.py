"""Bounded reads of a topic: from the log's start to the end that stood when the read began.

Replay and checks use it: no group, no commits, no waiting for more records. Reads Kafka only.
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

from aiokafka import TopicPartition
from aiokafka.errors import KafkaError, OffsetOutOfRangeError
from aiokafka.partitioner import murmur2

from turnstream.connectors.kafka.read.batches import BATCH_BYTES_MAX
from turnstream.connectors.kafka.wire.clients import open_client
from turnstream.connectors.kafka.wire.consumers import new_consumer, partitions_of
from turnstream.schemas.errors import KafkaUnavailableError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable
    from types import TracebackType

    from aiokafka.structs import ConsumerRecord

CLOSE_TIMEOUT_S = 2.0
_POLL_MS = 500
_BATCH_RECORDS_MAX = 2000


@dataclass(frozen=True, slots=True)
class Span:
    """The offsets that one partition held when the broker was asked: `first` up to before `end`."""

    partition: int
    first: int
    end: int


@dataclass(frozen=True, slots=True)
class RawRecord:
    """A record as stored; `at_ms` is its timestamp in milliseconds since 1970."""

    partition: int
    offset: int
    at_ms: int
    key: bytes
    value: bytes


def partition_of(key: bytes, partitions: int) -> int:
    """Return the partition that Kafka's default partitioner gives a key (murmur2)."""
    return int(murmur2(key) & 0x7FFFFFFF) % partitions


class LogScan:
    """Read parts of topics: an async context manager over one consumer, for one task.

    `client` are aiokafka's connection options. Every call raises `KafkaUnavailableError` where
    Kafka does not answer.
    """

    def __init__(
        self, bootstrap: str, *, batch_bytes_max: int = BATCH_BYTES_MAX, **client: object
    ) -> None:
        self._bootstrap = bootstrap
        self._consumer = new_consumer(
            bootstrap,
            batch_bytes_max,
            enable_auto_commit=False,
            auto_offset_reset="none",
            max_partition_fetch_bytes=8 << 20,
            fetch_max_bytes=64 << 20,
            **client,
        )

    async def __aenter__(self) -> Self:
        await open_client(self._consumer.start, self._consumer.stop, self._bootstrap)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await self._consumer.stop()

    async def spans(self, topic: str) -> list[Span]:
        """Return what each partition holds, in order; raises `NotFoundError` (`unknown_topic`)."""
        try:
            if topic not in await self._consumer.topics():
                raise NotFoundError(f"there is no topic {topic}", code="unknown_topic")
            numbers = await partitions_of(self._consumer, topic)
            targets = [TopicPartition(topic, number) for number in numbers]
            first = await self._consumer.beginning_offsets(targets)
            end = await self._consumer.end_offsets(targets)
        except KafkaError as error:
            raise KafkaUnavailableError(f"offsets of {topic}: {error!r}") from error
        return [Span(to.partition, first[to], end[to]) for to in targets]

    async def read(
        self, topic: str, spans: Iterable[Span]
    ) -> AsyncGenerator[list[RawRecord], None]:
        """Yield the spans' records in batches of one partition each, in offset order in each.

        Ends when every span is read. Records that retention removes meanwhile are skipped.
        """
        left = {
            TopicPartition(topic, span.partition): span for span in spans if span.first < span.end
        }
        if not left:
            return
        self._consumer.assign(list(left))
        for target, span in left.items():
            self._consumer.seek(target, span.first)
        try:
            while left:
                batches = await self._fetch(list(left), left)
                for target, records in batches.items():
                    span = left[target]
                    yield [
                        RawRecord(r.partition, r.offset, r.timestamp, r.key or b"", r.value or b"")
                        for r in records
                        if r.offset < span.end
                    ]
                for target in list(left):
                    # the position also passes over what holds no record (compaction, transactions)
                    if await self._consumer.position(target) >= left[target].end:
                        del left[target]
                        self._consumer.pause(target)
        except KafkaError as error:
            raise KafkaUnavailableError(f"read of {topic}: {error!r}") from error
        finally:
            # paused and not unsubscribed: aiokafka 0.14 may swallow the cancel of its fetcher then,
            # and a stop right after it waits for ever
            self._consumer.pause(*left)

    async def spans_since(self, topic: str, since_s: float | None) -> list[Span]:
        """Return what each partition holds since a Unix time; with None, empty spans at the end."""
        spans = await self.spans(topic)
        if since_s is None:
            return [replace(span, first=span.end) for span in spans]
        asked = {TopicPartition(topic, span.partition): round(since_s * 1000) for span in spans}
        try:
            found = await self._consumer.offsets_for_times(asked)
        except KafkaError as error:
            raise KafkaUnavailableError(f"offsets of {topic}: {error!r}") from error
        begins = {target.partition: at.offset for target, at in found.items() if at is not None}
        return [replace(span, first=begins.get(span.partition, span.end)) for span in spans]

    async def follow(
        self, topic: str, spans: Iterable[Span]
    ) -> AsyncGenerator[list[RawRecord], None]:
        """Yield the records from each span's first on, without end, each partition's in order.

        A batch is empty where nothing came for half a second. It holds 2,000 records at most.
        """
        targets = {
            TopicPartition(topic, span.partition): replace(span, end=sys.maxsize) for span in spans
        }
        self._consumer.assign(list(targets))
        for target, span in targets.items():
            self._consumer.seek(target, span.first)
        try:
            while True:
                batches = await self._fetch(list(targets), targets)
                yield [
                    RawRecord(r.partition, r.offset, r.timestamp, r.key or b"", r.value or b"")
                    for records in batches.values()
                    for r in records
                ]
        except KafkaError as error:
            raise KafkaUnavailableError(f"read of {topic}: {error!r}") from error
        finally:
            self._consumer.pause(*targets)

    async def record(self, topic: str, partition: int, offset: int) -> RawRecord | None:
        """Return one record, or None where the log does not hold it (any more)."""
        try:
            spans = await self.spans(topic)
        except NotFoundError:
            return None
        held = next((span for span in spans if span.partition == partition), None)
        if held is None or not held.first <= offset < held.end:
            return None
        async with aclosing(self.read(topic, [Span(partition, offset, offset + 1)])) as batches:
            async for batch in batches:
                for record in batch:
                    return record
        return None

    async def _fetch(
        self, targets: list[TopicPartition], spans: dict[TopicPartition, Span]
    ) -> dict[TopicPartition, list[ConsumerRecord]]:
        try:
            found: dict[TopicPartition, list[ConsumerRecord]] = await self._consumer.getmany(
                *targets, timeout_ms=_POLL_MS, max_records=_BATCH_RECORDS_MAX
            )
        except OffsetOutOfRangeError:
            first = await self._consumer.beginning_offsets(targets)
            for target, offset in first.items():
                if await self._consumer.position(target) < offset:
                    self._consumer.seek(target, min(offset, spans[target].end))
            return {}
        return found
