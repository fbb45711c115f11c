"""The pump: produces what all turns of a worker said, in rounds a tick apart.

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
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

import structlog
from aiokafka.errors import KafkaError

from turnstream.schemas.errors import ProduceRefusedError, UnavailableError

if TYPE_CHECKING:
    from aiokafka import TopicPartition

    from turnstream.connectors.kafka.write.producer import Batch, Producer

log = structlog.get_logger(__name__)

Headers = list[tuple[str, bytes]]
_NO_HEADERS: Headers = []
OpenProducer = Callable[[], Awaitable["Producer"]]

RECORD_OVERHEAD = 128
"""Bytes a record alone in its batch costs beyond key, value and headers, at most: 61 of the batch's
header, 21 of the record's, and the lengths of three headers (record format v2)."""

REOPEN_PAUSE_S = 0.5
PROBE_TIMEOUT_S = 2.0
CLOSE_TIMEOUT_S = 5.0


class Sender(Protocol):
    """Whoever puts records into the pump and hears what became of them."""

    @property
    def dead(self) -> bool:
        """Whether its unsent records are to be dropped."""
        ...

    def seal(self) -> None:
        """Put what is still open; called when a round is about to leave."""
        ...

    def landed(self, n: int, offset: int) -> None:
        """Hear that record `n` is in the log; `offset` is -1 where the broker did not say."""
        ...

    def refused(self, error: ProduceRefusedError) -> None:
        """Hear that a batch with one of its records was refused; the rest will not be sent."""
        ...


_Record = tuple[Sender, int, bytes, bytes, Headers]


class _Round:
    """What is on its way to one leader: the records of each partition, until they are answered."""

    __slots__ = ("away", "done", "sent_at")

    def __init__(self, sent_at: float, away: dict[TopicPartition, list[_Record]]) -> None:
        self.sent_at = sent_at
        self.away = away
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()


class _Delivery:
    """Sender of one record, whose caller waits for it; a caller that went away drops it unsent."""

    def __init__(self) -> None:
        self.offset: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    @property
    def dead(self) -> bool:
        return self.offset.done()

    def seal(self) -> None:
        """Have nothing open, ever."""

    def landed(self, n: int, offset: int) -> None:  # noqa: ARG002  one record, no position
        if not self.offset.done():
            self.offset.set_result(offset)

    def refused(self, error: ProduceRefusedError) -> None:
        if not self.offset.done():
            self.offset.set_exception(error)


class Pump:
    """Gathers records and produces them in rounds. `run` is its loop; without it nothing is sent.

    `tick_s`: least time between two rounds to one leader; urgent records do not wait for it.
    `gate` is asked before every round: while it says no, every record is kept back (a worker past
    its lease); whoever opens it again calls `hurry`. The size of a batch is the producer's
    `max_batch_size`; a record larger than that goes alone.
    """

    def __init__(
        self,
        open_producer: OpenProducer,
        *,
        tick_s: float = 0.005,
        gate: Callable[[], bool] = lambda: True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._open_producer = open_producer
        self._tick_s = tick_s
        self._gate = gate
        self._clock = clock
        self._producer: Producer | None = None
        self._spent = False
        self._queues: dict[TopicPartition, deque[_Record]] = {}
        self._open: dict[TopicPartition, dict[Sender, None]] = {}
        self._rounds: dict[int, _Round] = {}
        self._away: set[TopicPartition] = set()
        self._closing: set[asyncio.Task[None]] = set()
        self._opening_since: float | None = None
        self._heard_at = clock()
        self._broken: BaseException | None = None
        self._urgent = False
        self._last_round = 0.0
        self._bell: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.queued_bytes = 0
        self.rounds = 0
        self.records = 0
        self.refusals = 0

    async def start(self) -> None:
        """Open the producer, so that the first round need not wait for it."""
        if self._producer is None:
            self._producer = await self._open_producer()

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
        queue = self._queues.get(to)
        if queue is None:
            queue = self._queues[to] = deque()
        queue.append((sender, n, key, value, headers))
        self.queued_bytes += len(value)
        self._ring_for(to, urgent=urgent)

    def mark(self, to: TopicPartition, sender: Sender, *, urgent: bool = False) -> None:
        """Note that `sender` has something open, to be sealed when its partition's round leaves."""
        senders = self._open.get(to)
        if senders is None:
            senders = self._open[to] = {}
        senders[sender] = None
        self._ring_for(to, urgent=urgent)

    async def deliver(
        self, to: TopicPartition, key: bytes, value: bytes, *, headers: Headers = _NO_HEADERS
    ) -> int:
        """Put one record that belongs to no sender and return its offset once it is in the log.

        -1 where the broker did not say. Raises `ProduceRefusedError`.
        """
        delivery = _Delivery()
        self.put(to, delivery, 0, key, value, headers=headers, urgent=True)
        return await delivery.offset

    def hurry(self) -> None:
        """Let the next round leave at once: somebody waits for its acks."""
        self.ring(urgent=True)

    def _ring_for(self, to: TopicPartition, *, urgent: bool) -> None:
        if self._rounds and self._leader(to) in self._rounds:
            self._urgent |= urgent  # it leaves when the round before it has been answered
        else:
            self.ring(urgent=urgent)

    def ring(self, *, urgent: bool = False) -> None:
        """Let the next round leave when it is due; at once when `urgent`."""
        if urgent:
            self._urgent = True
        bell = self._bell
        if bell is None or bell.done():
            return
        if self._urgent:
            bell.set_result(None)
        elif self._timer is None:
            loop = bell.get_loop()
            self._timer = loop.call_later(
                max(0.0, self._last_round + self._tick_s - self._clock()), _set, bell
            )

    # -- what the worker calls -----------------------------------------------------------------

    @property
    def idle(self) -> bool:
        """Whether nothing is queued, open or on its way."""
        return not (self._rounds or self._open or any(self._queues.values()))

    def stalled_s(self) -> float:
        """For how long the oldest round has waited for its acks; 0 with none on its way."""
        since = [r.sent_at for r in self._rounds.values()]
        if self._opening_since is not None:
            since.append(self._opening_since)
        return self._clock() - min(since) if since else 0.0

    def silent_s(self) -> float:
        """For how long Kafka has acknowledged nothing, and answered no `probe`; from any thread."""
        return self._clock() - self._heard_at

    async def probe(self) -> None:
        """See whether Kafka answers, where no acks tell it; does nothing while some are due."""
        if self._producer is None or self._rounds:
            return
        with suppress(TimeoutError, KafkaError):
            async with asyncio.timeout(PROBE_TIMEOUT_S):
                if await self._producer.probe():
                    self._heard_at = self._clock()

    async def run(self) -> None:
        """Produce rounds until cancelled; raises what makes producing impossible."""
        try:
            loop = asyncio.get_running_loop()
            while True:
                if self._spent or self._producer is None:
                    await self._replace_producer()
                self._bell = loop.create_future()
                if self._sendable():
                    self.ring()
                await self._bell
                if self._timer is not None:
                    self._timer.cancel()
                    self._timer = None
                if self._broken is not None:
                    raise self._broken
                if not self._spent:
                    self._send_rounds()
        finally:
            self._bell = None
            await self._close()

    async def flush(self) -> None:
        """Wait until everything put so far has been acked or refused; bound it from outside."""
        while not self.idle:
            self.ring(urgent=True)
            rounds = [r.done for r in self._rounds.values()]
            if rounds:
                await asyncio.wait(rounds, timeout=0.05)
            else:
                await asyncio.sleep(self._tick_s)

    # -- rounds --------------------------------------------------------------------------------

    def _sendable(self) -> bool:
        return self._gate() and any(map(self._free, (*self._open, *self._queues)))

    def _free(self, to: TopicPartition) -> bool:
        # a batch that is sent again, maybe to another leader by now, keeps its partition
        return to not in self._away and self._leader(to) not in self._rounds

    def _leader(self, to: TopicPartition) -> int:
        return self._current().leader(to)

    def _send_rounds(self) -> None:
        """One round to every leader that has none on its way."""
        if not self._gate():
            return
        free: dict[int, list[TopicPartition]] = {}
        for to in {**self._open, **self._queues}:
            if self._free(to):
                free.setdefault(self._leader(to), []).append(to)
        if not free:
            return
        self._urgent = self._urgent and bool(self._rounds)
        self._last_round = self._clock()
        for leader, targets in free.items():
            self._send_round(leader, targets)

    def _send_round(self, leader: int, targets: list[TopicPartition]) -> None:
        producer = self._current()
        batches: dict[TopicPartition, Batch] = {}
        away: dict[TopicPartition, list[_Record]] = {}
        for to in targets:
            for sender in self._open.pop(to, ()):
                if not sender.dead:
                    sender.seal()
            if queue := self._queues.get(to):
                batch = producer.batch(to)
                if taken := self._fill(batch, queue):
                    batches[to], away[to] = batch, taken
            if not queue:
                self._queues.pop(to, None)
        if not batches:
            return
        self.rounds += 1
        self.records += sum(map(len, away.values()))
        self._away.update(away)
        sending = self._rounds[leader] = _Round(self._clock(), away)

        def told(to: TopicPartition, offset: int, error: BaseException | None) -> None:
            self._answered(leader, sending, to, offset, error)

        producer.send(leader, batches, told, self._break)

    def _fill(self, batch: Batch, queue: deque[_Record]) -> list[_Record]:
        taken: list[_Record] = []
        while queue:
            record = queue[0]
            sender, _n, key, value, headers = record
            if not sender.dead:
                if not batch.append(key, value, headers):
                    break
                taken.append(record)
            self.queued_bytes -= len(value)
            queue.popleft()
        return taken

    def _answered(
        self,
        leader: int,
        sending: _Round,
        to: TopicPartition,
        base: int,
        error: BaseException | None,
    ) -> None:
        taken = sending.away.pop(to)
        self._away.discard(to)
        if error is not None:
            self._refuse(to, taken, error)
        else:
            self._heard_at = self._clock()
            # a batch that the broker says it has already may come without its offset
            for at, (sender, n, _key, _value, _headers) in enumerate(taken):
                sender.landed(n, base + at if base >= 0 else -1)
        if not sending.away:
            self._settle(leader, sending)

    def _break(self, error: BaseException) -> None:
        """End the pump: in a callback the error would be lost, so `run` raises it."""
        self._broken = error
        self.ring(urgent=True)

    def _settle(self, leader: int, sending: _Round) -> None:
        if self._rounds.get(leader) is sending:
            del self._rounds[leader]
        if not sending.done.done():
            sending.done.set_result(None)
        if self._spent or self._broken is not None or self._sendable():
            self.ring(urgent=self._urgent or self._spent or self._broken is not None)

    def _refuse(self, to: TopicPartition, taken: Iterable[_Record], error: BaseException) -> None:
        self.refusals += 1
        self._spent = True
        log.error("produce_refused", topic=to.topic, partition=to.partition, error=repr(error))
        refusal = ProduceRefusedError(f"{to.topic}[{to.partition}]: {error!r}")
        for sender in dict.fromkeys(record[0] for record in taken):
            sender.refused(refusal)

    # -- producers -----------------------------------------------------------------------------

    def _current(self) -> Producer:
        if self._producer is None:
            raise RuntimeError("the pump has not been started")
        return self._producer

    async def _replace_producer(self) -> None:
        """Open a fresh producer. Rounds of the old one, to other leaders, end by themselves."""
        self._opening_since = self._clock()
        while True:
            try:
                fresh = await self._open_producer()
                break
            except (KafkaError, UnavailableError) as error:
                log.warning("producer_not_opened", error=repr(error))
                await asyncio.sleep(REOPEN_PAUSE_S)
        old, self._producer = self._producer, fresh
        self._opening_since = None
        self._spent = False
        if old is not None:
            closing = asyncio.create_task(old.stop())
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)

    async def _close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        producer, self._producer = self._producer, None
        tasks = set(self._closing)
        if producer is not None:
            tasks.add(asyncio.create_task(producer.stop()))
        if not tasks:
            return
        # a producer that cannot reach its broker would wait for its acks for ever
        _, late = await asyncio.wait(tasks, timeout=CLOSE_TIMEOUT_S)
        for task in late:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _set(bell: asyncio.Future[None]) -> None:
    if not bell.done():
        bell.set_result(None)
