"""Batches on their way: one request, and the repeats that it needs.

Writes to Kafka through the producer's connections.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

import structlog
from aiokafka import TopicPartition
from aiokafka.errors import (
    DuplicateSequenceNumber,
    KafkaError,
    UnknownTopicOrPartitionError,
    for_code,
)

from turnstream.connectors.kafka.wire.clients import AWAY_PAUSE_S, REQUEST_TIMEOUT_MS
from turnstream.connectors.kafka.wire.pauses import Pauses
from turnstream.connectors.kafka.wire.produce_request import (
    API_KEY,
    API_VERSION,
    produce_answers,
    produce_request,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from turnstream.connectors.kafka.wire.connection import Wire
    from turnstream.connectors.kafka.write.producer import Producer

    Broken = Callable[[BaseException], None]

log = structlog.get_logger(__name__)

RETRY_S = 0.1
"""Before a batch is sent again for the first time; later pauses grow, up to `AWAY_PAUSE_S`."""


class Told(Protocol):
    """Takes a batch's answer: its first offset (-1 where unknown), or why it was refused."""

    def __call__(self, to: TopicPartition, offset: int, error: BaseException | None) -> None:
        """Take the answer."""
        ...


class Sending:
    """Batches that left together, until each is acknowledged or refused.

    A batch that has to be sent again goes unchanged to the leader of that moment.
    """

    __slots__ = ("_broken", "_left", "_producer", "_told")

    def __init__(
        self, producer: Producer, left: dict[TopicPartition, bytes], told: Told, broken: Broken
    ) -> None:
        self._producer = producer
        self._left = left
        self._told = told
        self._broken = broken

    def begin(self, wire: Wire | None) -> None:
        """Send, through the leader's connection where there is one."""
        if wire is None or wire.lost:
            self._producer.spawn(self._go_on(at_once=True), self._broken)
        else:
            wire.send(API_KEY, API_VERSION, _request(self._left), self._answered)

    def _answered(self, body: bytes, at: int, error: KafkaError | None) -> None:
        try:
            self._settle(tuple(self._left), body, at, error)
            if self._left:
                self._producer.spawn(self._go_on(at_once=False), self._broken)
        except Exception as failure:  # noqa: BLE001  in a callback it would be lost
            self._broken(failure)

    async def _go_on(self, *, at_once: bool) -> None:
        pauses = Pauses(RETRY_S, AWAY_PAUSE_S)
        while self._left:
            if not at_once:
                await asyncio.sleep(pauses.after_failure_s())
                fresh = await self._producer.probe()
                for to in [to for to in self._left if fresh and self._producer.lacks(to)]:
                    missing = UnknownTopicOrPartitionError(f"{to.topic}[{to.partition}]")
                    self._end(to, -1, missing)
            by_leader: dict[int, dict[TopicPartition, bytes]] = {}
            for to, data in self._left.items():
                by_leader.setdefault(self._producer.leader(to), {})[to] = data
            by_leader.pop(-1, None)
            for node, batches in by_leader.items():
                await self._ask(node, batches)
            at_once = False

    async def _ask(self, node: int, batches: dict[TopicPartition, bytes]) -> None:
        try:
            wire = await self._producer.wire(node)
            body, at = await wire.request(API_KEY, API_VERSION, _request(batches))
        except KafkaError as error:
            self._settle(tuple(batches), b"", 0, error)
        else:
            self._settle(tuple(batches), body, at, None)

    def _settle(
        self, batches: tuple[TopicPartition, ...], body: bytes, at: int, error: KafkaError | None
    ) -> None:
        """End the batches that an answer settles; the others stay in `_left`."""
        if error is not None:
            if error.retriable:
                log.warning("produce_repeated", error=repr(error))
                return
            for to in batches:
                self._end(to, -1, error)
            return
        for topic, partition, code, offset in produce_answers(body, at):
            to = TopicPartition(topic, partition)
            if code == 0:
                self._end(to, offset, None)
                continue
            error_type = for_code(code)
            if (
                error_type is DuplicateSequenceNumber
            ):  # it is in the log; the broker has forgotten the offset
                self._end(to, -1, None)
            elif error_type.retriable:
                log.warning("produce_repeated", topic=topic, partition=partition, code=code)
            else:
                self._end(to, -1, error_type())

    def _end(self, to: TopicPartition, offset: int, error: BaseException | None) -> None:
        del self._left[to]
        self._producer.settled()
        self._told(to, offset, error)


def _request(batches: Mapping[TopicPartition, bytes]) -> bytes:
    return produce_request(batches, timeout_ms=REQUEST_TIMEOUT_MS)
