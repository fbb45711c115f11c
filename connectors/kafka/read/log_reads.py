"""Reads of a topic's log beside its tail: offsets by time, and records from anywhere.

They have a client of their own, because they must not wait behind the tail's long polls.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from aiokafka.errors import (
    KafkaError,
    NoError,
    NotLeaderForPartitionError,
    OffsetOutOfRangeError,
    for_code,
)
from aiokafka.protocol.offset import OffsetRequest
from aiokafka.structs import TopicPartition

from turnstream.connectors.kafka.read.batch_layout import next_offset
from turnstream.connectors.kafka.read.batches import (
    BATCH_BYTES_MAX,
    Budget,
    batch_records,
    made_readable,
)
from turnstream.connectors.kafka.wire.fetch_request import Fetch
from turnstream.schemas.errors import KafkaUnavailableError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from aiokafka.client import AIOKafkaClient

EARLIEST = -2
LATEST = -1
_READ_UNCOMMITTED = 0
_PAUSE_S = 0.1
_LEADER_TRIES = 50


class LogReads:
    """Reads of one topic; the caller opens and closes `client`.

    `reads_max` bounds how many callers of `records` are in the log at once. Each method raises
    `KafkaUnavailableError`.
    """

    def __init__(
        self,
        client: AIOKafkaClient,
        topic: str,
        *,
        bytes_max: int,
        max_wait_ms: int,
        reads_max: int,
        batch_bytes_max: int = BATCH_BYTES_MAX,
    ) -> None:
        self.client = client
        self._reading = asyncio.Semaphore(reads_max)
        self._topic = topic
        self._bytes_max = bytes_max
        self._max_wait_ms = max_wait_ms
        self._batch_bytes_max = batch_bytes_max

    async def bounds(self, partition: int) -> tuple[int, int]:
        """Ask for the partition's first offset and its end."""
        first, end = await asyncio.gather(
            self.offsets({partition: EARLIEST}), self.offsets({partition: LATEST})
        )
        return first[partition], end[partition]

    async def at_time(self, partition: int, unix_ms: int) -> int:
        """Return the first offset at or after a time; the end if there is none."""
        found = (await self.offsets({partition: max(unix_ms, 0)}))[partition]
        return found if found >= 0 else (await self.offsets({partition: LATEST}))[partition]

    async def offsets(self, asked: dict[int, int]) -> dict[int, int]:
        """Return offsets by partition for a time (ms since 1970), `EARLIEST` or `LATEST`.

        -1 where no record is that late.
        """
        found: dict[int, int] = {}
        for _ in range(_LEADER_TRIES):
            by_node: dict[int, list[tuple[int, int]]] = {}
            for number, at in asked.items():
                if number not in found:
                    by_node.setdefault(await self._leader(number), []).append((number, at))
            for node, wanted in by_node.items():
                found.update(await self._offsets_of(node, wanted))
            if len(found) == len(asked):
                return found
            # the leader has just changed, or the new one does not know yet that it leads
            await self.client.force_metadata_update()
            await asyncio.sleep(_PAUSE_S)
        raise KafkaUnavailableError(f"{self._topic} has partitions without a leader")

    async def _offsets_of(self, node: int, wanted: list[tuple[int, int]]) -> dict[int, int]:
        request = OffsetRequest(-1, _READ_UNCOMMITTED, [(self._topic, wanted)])
        try:
            response = await self.client.send(node, request)
        except KafkaError as error:
            raise KafkaUnavailableError(f"offsets of {self._topic}: {error!r}") from error
        found: dict[int, int] = {}
        for _topic, partitions in response.topics:
            for number, code, _at, offset, *_ in partitions:
                refusal = for_code(code)
                if refusal is NoError:
                    found[number] = offset
                elif not refusal.retriable:
                    raise KafkaUnavailableError(f"offsets of {self._topic}: {refusal.__name__}")
        return found

    async def _leader(self, number: int) -> int:
        for _ in range(_LEADER_TRIES):
            node = self.client.cluster.leader_for_partition(TopicPartition(self._topic, number))
            if node is not None and node >= 0:
                return int(node)
            await self.client.force_metadata_update()
            await asyncio.sleep(_PAUSE_S)
        raise KafkaUnavailableError(f"{self._topic}[{number}] has no leader")

    async def records(
        self, partition: int, key: bytes, first: int, until: Callable[[], int]
    ) -> AsyncGenerator[tuple[int, list[tuple[int, bytes]]], None]:
        """Yield the offset reached and the key's records before it, from `first` to `until()`."""
        position = first
        async with self._reading:
            while position < until():
                raw, start = await self._fetch(partition, position)
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

    async def _fetch(self, partition: int, position: int) -> tuple[bytes, int]:
        """Return readable bytes from `position`, and the log's first offset."""
        size = self._bytes_max
        request = Fetch(
            self._topic,
            [(partition, position, size)],
            max_wait_ms=self._max_wait_ms,
            min_bytes=1,
            max_bytes=size,
        )
        try:
            response = await self.client.send(await self._leader(partition), request)
        except KafkaError as error:
            raise KafkaUnavailableError(f"read of {self._topic}: {error!r}") from error
        for _number, code, raw in response.partitions:
            refusal = for_code(code)
            if refusal is OffsetOutOfRangeError:
                return b"", (await self.bounds(partition))[0]
            if refusal is NotLeaderForPartitionError:
                await self.client.force_metadata_update()
            elif refusal is not NoError:
                raise KafkaUnavailableError(f"read of {self._topic}: {refusal.__name__}")
            return await made_readable(raw, position, Budget(self._batch_bytes_max)), 0
        return b"", 0
