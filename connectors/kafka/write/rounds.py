"""Rounds on their way: the records that have no answer yet, and the calls to their senders."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from turnstream.schemas.errors import ProduceRefusedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiokafka import TopicPartition

    from turnstream.connectors.kafka.write.outgoing import Record
    from turnstream.connectors.kafka.write.sending import Told

log = structlog.get_logger(__name__)


class _Round:
    """What is on its way to one leader: the records of each partition, until they are answered."""

    __slots__ = ("away", "done", "sent_at")

    def __init__(self, sent_at: float, away: dict[TopicPartition, list[Record]]) -> None:
        self.sent_at = sent_at
        self.away = away
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()


class Rounds:
    """At most one round a leader. `by_leader` and `partitions` are those that have no answer yet.

    `heard_at`: when Kafka last acknowledged something, by `clock`. `on_refused` is called before
    the senders of a refused batch are, `on_settled` when a round has all its answers.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        *,
        on_refused: Callable[[], None],
        on_settled: Callable[[], None],
    ) -> None:
        self.by_leader: dict[int, _Round] = {}
        self.partitions: set[TopicPartition] = set()
        self.heard_at = clock()
        self.refusals = 0
        self._clock = clock
        self._on_refused = on_refused
        self._on_settled = on_settled

    def begin(self, leader: int, away: dict[TopicPartition, list[Record]]) -> Told:
        """Note a round; what is returned takes the answer of each of its partitions."""
        self.partitions.update(away)
        sent = self.by_leader[leader] = _Round(self._clock(), away)

        def told(to: TopicPartition, offset: int, error: BaseException | None) -> None:
            self._answered(sent, to, offset, error)
            if not sent.away:
                self._settle(leader, sent)

        return told

    def oldest_at(self) -> float | None:
        """Return when the oldest round was sent, None if none is on its way."""
        return min((sent.sent_at for sent in self.by_leader.values()), default=None)

    def unsettled(self) -> list[asyncio.Future[None]]:
        """Return what is done when each round has its answers."""
        return [sent.done for sent in self.by_leader.values()]

    def heard(self) -> None:
        """Note that Kafka answers."""
        self.heard_at = self._clock()

    def _answered(
        self, sent: _Round, to: TopicPartition, base: int, error: BaseException | None
    ) -> None:
        taken = sent.away.pop(to)
        self.partitions.discard(to)
        if error is not None:
            self._refuse(to, taken, error)
            return
        self.heard()
        # a batch that the broker has already may come without its offset
        for at, (sender, n, _key, _value, _headers) in enumerate(taken):
            sender.landed(n, base + at if base >= 0 else -1)

    def _refuse(self, to: TopicPartition, taken: list[Record], error: BaseException) -> None:
        self.refusals += 1
        self._on_refused()
        log.error("produce_refused", topic=to.topic, partition=to.partition, error=repr(error))
        refusal = ProduceRefusedError(f"{to.topic}[{to.partition}]: {error!r}")
        for sender in dict.fromkeys(record[0] for record in taken):
            sender.refused(refusal)

    def _settle(self, leader: int, sent: _Round) -> None:
        if self.by_leader.get(leader) is sent:
            del self.by_leader[leader]
        if not sent.done.done():
            sent.done.set_result(None)
        self._on_settled()
