"""One attempt's records on their way to the log: their order, their acks, their end (G2).

`TurnLog` is what the pump acknowledges (`connectors.kafka.write.outgoing.Sender`). Nothing in it
awaits but `acked`. It belongs to one event loop.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

from turnstream.schemas.errors import FencedError, ProduceRefusedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiokafka import TopicPartition

    from turnstream.connectors.kafka.write.outgoing import Headers
    from turnstream.connectors.kafka.write.pump import Pump


class TurnLog:
    """Gives out `n`, and knows what the log has taken.

    `n`: the last position given out; the first record gets `high_n`. `dead`: the attempt is over,
    and nothing more is sent. `seal` puts what is still open; the pump calls it when a round is
    about to leave. `on_refused` is called once, when the broker refuses a record. `first_off` and
    `last_off` are offsets of the log, None until the log tells one.
    """

    def __init__(
        self,
        pump: Pump,
        to: TopicPartition,
        key: bytes,
        *,
        high_n: int,
        seal: Callable[[], None],
        on_refused: Callable[[ProduceRefusedError], None],
    ) -> None:
        self._pump = pump
        self._to = to
        self.key = key
        self.seal = seal
        self._on_refused = on_refused
        self.n = high_n - 1
        self._acked_n = self.n
        self._unacked: deque[int] = deque()
        self.unacked_bytes = 0
        self._waiters: list[tuple[int, asyncio.Future[None]]] = []
        self._error: Exception | None = None
        self.dead = False
        self.first_off: int | None = None
        self.last_off: int | None = None

    def append(self, value: bytes, headers: Headers, *, urgent: bool) -> None:
        """Give out the next `n` and hand the record that has it to the pump, in one step (G2).

        A dead attempt's record gets an `n` that is never acknowledged.
        """
        self.n += 1
        if self.dead:
            return
        size = len(value)
        self._unacked.append(size)
        self.unacked_bytes += size
        self._pump.put(self._to, self, self.n, self.key, value, headers=headers, urgent=urgent)

    def append_thread_event(self, value: bytes, headers: Headers) -> None:
        """Hand over a record without an `n`; its ack moves nothing."""
        self.n -= 1
        self.append(value, headers, urgent=True)

    async def acked(self, n: int) -> None:
        """Wait until everything up to `n` is in the log.

        Raises `ProduceRefusedError` or `FencedError` when the attempt is over before that.
        """
        if self._acked_n >= n:
            return
        if self._error is not None:
            raise self._error
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append((n, waiter))
        self._pump.hurry()
        await waiter

    def kill(self, error: Exception | None = None) -> None:
        """Send nothing more; callers of `acked` get the first error."""
        self.dead = True
        self._error = self._error or error or FencedError("the attempt is over")
        waiters, self._waiters = self._waiters, []
        for _n, waiter in waiters:
            if not waiter.done():
                waiter.set_exception(self._error)

    def let_go(self) -> None:
        """Drop the references to the emitter, and with them what is still open."""
        self.seal = _nothing_open
        self._on_refused = _nobody_to_tell

    # -- what the pump calls, beside `seal` ----------------------------------------------------

    def landed(self, n: int, offset: int) -> None:
        """Note where a record lies, and wake the callers that waited for its ack."""
        self.unacked_bytes -= self._unacked.popleft()
        if offset >= 0:
            if self.first_off is None:
                self.first_off = offset
            self.last_off = offset
        self._acked_n = max(self._acked_n, n)
        if not self._waiters:
            return
        waiting = self._waiters
        self._waiters = [waiter for waiter in waiting if waiter[0] > n]
        for upto, waiter in waiting:
            if upto <= n and not waiter.done():
                waiter.set_result(None)

    def refused(self, error: ProduceRefusedError) -> None:
        """End the attempt: a record behind the gap must never be sent."""
        first = self._error is None
        self.kill(error)
        if first:
            self._on_refused(error)


def _nothing_open() -> None:
    """Seal nothing: the attempt is over."""


def _nobody_to_tell(_error: ProduceRefusedError) -> None:
    """Ignore a refusal that comes after the attempt."""
