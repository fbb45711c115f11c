"""The input topics as a worker reads them: a group divides them, the ledger has the positions.

Only lag tools use Kafka's committed offsets. The inbox reads an assigned partition only after
`place` gave it the ledger's position, so neither a rebalance nor a restored database loses or
repeats a command. Reads `turns` and `turns.<tenant>`; writes committed offsets.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self, TypeAlias

import structlog
from aiokafka import ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import IllegalStateError, KafkaError, OffsetOutOfRangeError

from turnstream.connectors.kafka.read.batches import BATCH_BYTES_MAX
from turnstream.connectors.kafka.read.unreadable import unreadable_of
from turnstream.connectors.kafka.wire.clients import REQUEST_TIMEOUT_MS, open_client
from turnstream.connectors.kafka.wire.consumers import new_consumer
from turnstream.schemas.errors import InputLostError, KafkaUnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from types import TracebackType

    from aiokafka.structs import ConsumerRecord

log = structlog.get_logger(__name__)

FETCH_WAIT_MS = 250
PARTITION_BYTES = 64 << 10
"""Bytes of one partition in a fetch: a backlog of one does not keep the others waiting."""
COMMIT_EVERY_S = 5.0
LEAVE_TIMEOUT_S = 3.0
SESSION_TIMEOUT_MS = 6_000
"""A killed worker's partitions wait for this long; it is a broker's default minimum."""


@dataclass(slots=True)
class UnreadableRecord:
    """Records that cannot be read, as one: offsets `offset` up to, without, `end`.

    `value` holds the bytes of their batch, or of the one record; it is empty where they are too
    many. `code` and `message` give the reason.
    """

    topic: str
    partition: int
    offset: int
    end: int
    code: str
    message: str
    value: bytes | None
    key: bytes | None = None
    headers: Sequence[tuple[str, bytes]] = ()
    timestamp: int = 0


InputRecord: TypeAlias = "ConsumerRecord | UnreadableRecord"


def end_of(record: InputRecord) -> int:
    """Return the offset after a record."""
    if isinstance(record, UnreadableRecord):
        return record.end
    offset: int = record.offset
    return offset + 1


class Inbox:
    """Reads batches of the partitions that the group gives to this process.

    Use it as an async context manager. `client` are aiokafka's connection options.
    """

    def __init__(
        self,
        bootstrap: str,
        group: str,
        topics: Sequence[str],
        *,
        client_id: str,
        batch_bytes_max: int = BATCH_BYTES_MAX,
        **client: object,
    ) -> None:
        self._bootstrap = bootstrap
        self._topics = tuple(topics)
        self._consumer = new_consumer(
            bootstrap,
            batch_bytes_max,
            group_id=group,
            client_id=client_id,
            enable_auto_commit=False,
            auto_offset_reset="none",
            isolation_level="read_committed",
            fetch_max_wait_ms=FETCH_WAIT_MS,
            max_partition_fetch_bytes=PARTITION_BYTES,
            session_timeout_ms=SESSION_TIMEOUT_MS,
            heartbeat_interval_ms=SESSION_TIMEOUT_MS // 6,
            max_poll_interval_ms=300_000,
            request_timeout_ms=REQUEST_TIMEOUT_MS,
            metadata_max_age_ms=30_000,
            **client,
        )
        self._at: dict[TopicPartition, int] = {}
        self._unplaced: set[TopicPartition] = set()
        self._paused = False
        self._committed_at = 0.0
        self._committed: dict[TopicPartition, int] = {}

    async def __aenter__(self) -> Self:
        await open_client(self._consumer.start, self._consumer.stop, self._bootstrap)
        self._consumer.subscribe(self._topics, listener=_Placing(self))
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        await self._stop()

    async def leave(self) -> None:
        """Read nothing more, so that the group gives the partitions to other workers."""
        try:
            async with asyncio.timeout(LEAVE_TIMEOUT_S):
                await self._stop()
        except (KafkaError, TimeoutError) as error:
            # the group notices when the session times out
            log.warning("group_not_left", error=repr(error))

    async def _stop(self) -> None:
        """Stop the consumer.

        aiokafka 0.14 raises `CancelledError` out of `stop`, the group left, where a fetch of its
        own waits to be tried again (`Fetcher.close`).
        """
        try:
            await self._consumer.stop()
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise

    def unplaced(self) -> frozenset[TopicPartition]:
        """Return the partitions that wait for `place`."""
        return frozenset(self._unplaced)

    def assigned(self) -> frozenset[TopicPartition]:
        """Return the partitions that this process reads."""
        return frozenset(self._consumer.assignment())

    async def starts_of(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        """Return the first offset that the log still holds, for partitions never read before."""
        if not partitions:
            return {}
        try:
            return dict(await self._consumer.beginning_offsets(list(partitions)))
        except KafkaError as error:
            raise KafkaUnavailableError(f"input topics: {error!r}") from error

    def place(self, partition: TopicPartition, position: int) -> None:
        """Read the partition from this position on; does nothing if it was revoked meanwhile."""
        if partition not in self._consumer.assignment():
            self._unplaced.discard(partition)
            return
        self._consumer.seek(partition, position)
        if not self._paused:
            self._consumer.resume(partition)
        self._at[partition] = position
        self._unplaced.discard(partition)

    def displace(self, partitions: Iterable[TopicPartition] | None = None) -> None:
        """Read nothing of these partitions (all, if None) until they are placed again."""
        assigned = self._consumer.assignment()
        gone = assigned if partitions is None else assigned & set(partitions)
        if gone:
            self._consumer.pause(*gone)
        self._unplaced |= gone

    def position(self, partition: TopicPartition) -> int | None:
        """Return where the next batch of the partition begins, None while it is not placed."""
        return None if partition in self._unplaced else self._at.get(partition)

    def moved(self, partition: TopicPartition, position: int) -> None:
        """Note that all records before `position` are in the ledger."""
        if partition not in self._unplaced:
            self._at[partition] = position

    @property
    def paused(self) -> bool:
        """Whether the inbox reads nothing for now."""
        return self._paused

    @paused.setter
    def paused(self, paused: bool) -> None:
        placed = self._consumer.assignment() - self._unplaced
        if paused != self._paused and placed:
            (self._consumer.pause if paused else self._consumer.resume)(*placed)
        self._paused = paused

    async def batches(
        self, *, wait_s: float, records_max: int
    ) -> dict[TopicPartition, list[InputRecord]]:
        """Return new records by partition, in order; waits at most `wait_s` for the first.

        They are at most `records_max` together.

        Raises `InputLostError` where the ledger's position is not in the log, and
        `KafkaUnavailableError`.
        """
        try:
            got = await self._consumer.getmany(
                timeout_ms=round(wait_s * 1000), max_records=records_max
            )
        except OffsetOutOfRangeError as error:
            raise InputLostError(
                f"the ledger's position is outside of the log: {error.args[0]}; records were "
                "removed before they were read, or the topic is another one"
            ) from error
        except KafkaError as error:
            raise KafkaUnavailableError(f"input topics: {error!r}") from error
        return {
            partition: fresh
            for partition, records in got.items()
            if (at := self.position(partition)) is not None
            and (fresh := [one for one in map(_read, records) if end_of(one) > at])
        }

    async def commit(self) -> None:
        """Commit the ledger's positions for lag tools every `COMMIT_EVERY_S`; log failures."""
        if time.monotonic() - self._committed_at < COMMIT_EVERY_S:
            return
        self._committed_at = time.monotonic()
        # in a rebalance a partition is assigned for a while that was revoked and has no position
        placed = (self._consumer.assignment() - self._unplaced) & self._at.keys()
        offsets = {p: self._at[p] for p in placed if self._at[p] != self._committed.get(p)}
        if not offsets:
            return
        try:
            async with asyncio.timeout(1.0):
                await self._consumer.commit(offsets)
        except (KafkaError, IllegalStateError, TimeoutError) as error:
            log.info("offsets_not_committed", error=repr(error))
        else:
            self._committed.update(offsets)

    def _assigned(self, partitions: Iterable[TopicPartition]) -> None:
        for partition in partitions:
            # a position of its own keeps the client from asking for the committed one
            self._consumer.seek(partition, 0)
            self._consumer.pause(partition)
            self._unplaced.add(partition)

    def _revoked(self, partitions: Iterable[TopicPartition]) -> None:
        for partition in partitions:
            self._at.pop(partition, None)
            self._unplaced.discard(partition)


def _read(record: ConsumerRecord) -> InputRecord:
    unreadable = unreadable_of(record.headers)
    if unreadable is None:
        return record
    return UnreadableRecord(
        record.topic,
        record.partition,
        unreadable.first,
        unreadable.end,
        unreadable.code,
        unreadable.message,
        record.value or b"",
    )


class _Placing(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka has no types
    def __init__(self, inbox: Inbox) -> None:
        self._inbox = inbox

    def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        self._inbox._assigned(assigned)  # noqa: SLF001  its other half

    def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        self._inbox._revoked(revoked)  # noqa: SLF001  its other half
