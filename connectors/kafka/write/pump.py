"""The pump: produces the records of all turns of a worker, in rounds a tick apart.

Cost follows produce requests and not records, so one pump gathers what every sender has and
produces it in rounds: one batch a partition, one round in flight per leader, idempotent, acks=all.
Writes to Kafka; reads nothing.

Order (G2): records of one partition land in the order of `put`. A batch that the broker refuses
ends every sender with a record in it and replaces the producer, whose sequence for that partition
is spent. A missing ack ends nothing: the producer sends again, and `stalled_s` says for how long.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from turnstream.connectors.kafka.write.backlog import Backlog
from turnstream.connectors.kafka.write.bell import Bell
from turnstream.connectors.kafka.write.current_producer import CurrentProducer
from turnstream.connectors.kafka.write.outgoing import Delivery
from turnstream.connectors.kafka.write.rounds import Rounds

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiokafka import TopicPartition

    from turnstream.connectors.kafka.write.current_producer import OpenProducer
    from turnstream.connectors.kafka.write.outgoing import Headers, Record, Sender
    from turnstream.connectors.kafka.write.producer import Batch

_NO_HEADERS: Headers = []


class Pump:
    """Gathers records and produces them in rounds. `run` is its loop; without it nothing is sent.

    `tick_s`: least time between two rounds to one leader; urgent records do not wait for it. `gate`
    is asked before every round: while it returns False, every record is kept back (a worker past
    its lease); the caller that opens it again calls `hurry`. The size of a batch is the producer's
    `BATCH_BYTES_MAX`; a record larger than that goes alone.
    """

    def __init__(
        self,
        open_producer: OpenProducer,
        *,
        tick_s: float = 0.005,
        gate: Callable[[], bool] = lambda: True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tick_s = tick_s
        self._gate = gate
        self._clock = clock
        self._backlog = Backlog()
        self._bell = Bell(tick_s, clock)
        self._producer = CurrentProducer(open_producer, clock)
        self._rounds = Rounds(
            clock, on_refused=self._producer.spend, on_settled=self._ring_if_sendable
        )
        self._broken: BaseException | None = None
        self.rounds = 0
        self.records = 0

    async def start(self) -> None:
        """Open the producer, so that the first round need not wait for it."""
        await self._producer.start()

    # -- what senders call ---------------------------------------------------------------------

    def put(
        self,
        to: TopicPartition,
        sender: Sender,
        n: int,
        key: bytes,
        value: bytes,
        *,
        headers: Headers = _NO_HEADERS,
        urgent: bool = False,
    ) -> None:
        """Queue one record behind those already put for its partition."""
        self._backlog.put(to, (sender, n, key, value, headers))
        self._ring_for(to, urgent=urgent)

    def mark(self, to: TopicPartition, sender: Sender, *, urgent: bool = False) -> None:
        """Note that `sender` has something open, to be sealed when its partition's round leaves."""
        self._backlog.mark(to, sender)
        self._ring_for(to, urgent=urgent)

    async def deliver(
        self, to: TopicPartition, key: bytes, value: bytes, *, headers: Headers = _NO_HEADERS
    ) -> int:
        """Put one record that belongs to no sender and return its offset once it is in the log.

        -1 where the broker gave none. Raises `ProduceRefusedError`.
        """
        delivery = Delivery()
        self.put(to, delivery, 0, key, value, headers=headers, urgent=True)
        return await delivery.offset

    def hurry(self) -> None:
        """Send the next round at once, because a caller waits for its acks."""
        self._bell.ring(urgent=True)

    def _ring_for(self, to: TopicPartition, *, urgent: bool) -> None:
        away = self._rounds.by_leader
        if away and self._producer.leader(to) in away:
            if urgent:  # it leaves when the round before it has been answered
                self._bell.hasten()
        elif urgent or not self._bell.armed:
            self._bell.ring(urgent=urgent)

    # -- what the worker calls -----------------------------------------------------------------

    @property
    def idle(self) -> bool:
        """Whether nothing is queued, open or on its way."""
        return not self._rounds.by_leader and self._backlog.empty

    @property
    def queued_bytes(self) -> int:
        """How many bytes of values wait for a round."""
        return self._backlog.value_bytes

    @property
    def refusals(self) -> int:
        """How many batches the broker has refused."""
        return self._rounds.refusals

    def stalled_s(self) -> float:
        """For how long the oldest round has waited for its acks; 0 with none on its way."""
        since = (self._rounds.oldest_at(), self._producer.opening_since)
        known = [at for at in since if at is not None]
        return self._clock() - min(known) if known else 0.0

    def silent_s(self) -> float:
        """For how long Kafka has acknowledged nothing, and answered no `probe`; from any thread."""
        return self._clock() - self._rounds.heard_at

    async def probe(self) -> None:
        """Find out whether Kafka answers; does nothing while acks are due, which show it too."""
        if not self._rounds.by_leader and await self._producer.probe():
            self._rounds.heard()

    async def run(self) -> None:
        """Produce rounds until cancelled; raises what makes producing impossible."""
        try:
            while True:
                if not self._producer.usable:
                    await self._producer.replace()
                rung = self._bell.listen()
                if self._sendable():
                    self._bell.ring()
                await rung
                self._bell.heard()
                if self._broken is not None:
                    raise self._broken
                if not self._producer.spent:
                    self._send_rounds()
        finally:
            self._bell.close()
            await self._producer.close()

    async def flush(self) -> None:
        """Wait until everything put so far has been acked or refused; bound it from outside."""
        while not self.idle:
            self._bell.ring(urgent=True)
            rounds = self._rounds.unsettled()
            if rounds:
                await asyncio.wait(rounds, timeout=0.05)
            else:
                await asyncio.sleep(self._tick_s)

    # -- rounds --------------------------------------------------------------------------------

    def _sendable(self) -> bool:
        return self._gate() and any(map(self._free, self._backlog.partitions()))

    def _free(self, to: TopicPartition) -> bool:
        # a batch that is sent again, maybe to another leader by now, keeps its partition
        return (
            to not in self._rounds.partitions
            and self._producer.leader(to) not in self._rounds.by_leader
        )

    def _send_rounds(self) -> None:
        """Send one round to every leader that has none on its way."""
        if not self._gate():
            return
        free: dict[int, list[TopicPartition]] = {}
        for to in self._backlog.partitions():
            if self._free(to):
                free.setdefault(self._producer.leader(to), []).append(to)
        if not free:
            return
        self._bell.left(urgent=bool(self._rounds.by_leader))
        for leader, targets in free.items():
            self._send_round(leader, targets)

    def _send_round(self, leader: int, targets: list[TopicPartition]) -> None:
        producer = self._producer.get()
        batches: dict[TopicPartition, Batch] = {}
        away: dict[TopicPartition, list[Record]] = {}
        for to in targets:
            if self._backlog.seal(to):
                batch = producer.batch(to)
                if taken := self._backlog.fill(to, batch):
                    batches[to], away[to] = batch, taken
        if not batches:
            return
        self.rounds += 1
        self.records += sum(map(len, away.values()))
        producer.send(leader, batches, self._rounds.begin(leader, away), self._break)

    def _break(self, error: BaseException) -> None:
        """End the pump: in a callback the error would be lost, so `run` raises it."""
        self._broken = error
        self._bell.ring(urgent=True)

    def _ring_if_sendable(self) -> None:
        ended = self._producer.spent or self._broken is not None
        if ended or self._sendable():
            self._bell.ring(urgent=ended)
