"""Whether a turn may be started now, by what workers, Kafka and Postgres can take.

A command that is refused here was not published, so the client may ask again. What is read is at
most `CHECK_EVERY_S` old, and in between an edge publishes no more starts than there was room for.
A command that Kafka has taken beyond that waits there and is not lost.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import structlog

from turnstream.schemas.errors import (
    DatabaseUnavailableError,
    KafkaUnavailableError,
    OverloadedError,
    TurnstreamError,
)

if TYPE_CHECKING:
    from collections.abc import Callable

_log = structlog.get_logger(__name__)
CHECK_EVERY_S = 1.0
# a database that takes longer does not answer
CHECK_TIMEOUT_S = 3.0
# the tail's fetches are answered at least every `edge_fetch_wait_ms`; then an edge is not ready
TAIL_SILENT_MAX_S = 5.0


class Tail(Protocol):
    """What tells whether Kafka answers."""

    @property
    def lag_s(self) -> float:
        """Seconds since a broker answered."""
        ...


class OpenTurns(Protocol):
    """What tells how much the workers have before them."""

    async def open_total(self) -> int:
        """Return how many turns are not over; raises `DatabaseUnavailableError`."""
        ...

    async def workers(self) -> int:
        """Return how many workers hold a lease; raises `DatabaseUnavailableError`."""
        ...


class Turnstile:
    """Lets `AT_ONCE` callers pass in one iteration of the event loop, the others later, in order.

    Otherwise the work of a crowd of requests would hold up everything else on the loop.
    """

    AT_ONCE = 4

    def __init__(self) -> None:
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._left = self.AT_ONCE
        self._turning = False

    async def passed(self) -> None:
        """Return when the caller may go on."""
        loop = asyncio.get_running_loop()
        if not self._turning:
            self._turning = True
            loop.call_soon(self._turn)
        if self._left:
            self._left -= 1
            return
        waiting = loop.create_future()
        self._waiting.append(waiting)
        await waiting

    def _turn(self) -> None:
        self._left = self.AT_ONCE
        while self._left and self._waiting:
            waiting = self._waiting.popleft()
            if not waiting.done():  # else its caller has left
                waiting.set_result(None)
                self._left -= 1
        self._turning = bool(self._waiting)
        if self._turning:
            asyncio.get_running_loop().call_soon(self._turn)


@dataclass(slots=True)
class Pressure:
    """Refuses commands while they would only pile up; recovers by itself.

    `workers` is how many hold a lease, None where that is not known. An edge without any takes
    commands: Kafka keeps them until one comes.

    Requests that start turns pass a door (`enter`) before anything is done for them. It lets no
    more in than there is room for, and once it had to refuse some, evenly over the next second. A
    few begin at a time: what is let in is much work, and refusals and tokens would wait for it.
    """

    tail: Tail
    ledger: OpenTurns
    open_turns_max: int
    workers: int | None = None
    clock: Callable[[], float] = time.monotonic
    _refusal: TurnstreamError | None = field(default=None)
    _room: int = field(init=False)
    _looked_at: float = 0.0
    _started: int = 0
    _entered: int = 0
    _refused: bool = False
    _scarce: bool = False
    _turnstile: Turnstile = field(default_factory=Turnstile)

    def __post_init__(self) -> None:
        """Take the ledger for empty until it is read."""
        self._room = self.open_turns_max

    def check(self, *, starts: bool) -> None:
        """Raise where a command is not to be published.

        Raises `KafkaUnavailableError`, `DatabaseUnavailableError`; for one that `starts` a turn
        also `OverloadedError`.
        """
        if self.tail.lag_s > TAIL_SILENT_MAX_S:
            raise KafkaUnavailableError(f"no answer from Kafka for {self.tail.lag_s:.0f} s")
        if self._refusal is not None:
            raise type(self._refusal)(str(self._refusal))
        if starts and self._started >= self._room:
            self._overloaded()

    def started(self) -> None:
        """Note that this edge publishes a command that starts a turn."""
        self._started += 1

    async def enter(self) -> None:
        """Let a request in that is about to start a turn; raises as `check` does, at once."""
        self.check(starts=True)
        since_s = self.clock() - self._looked_at
        share = min(1.0, since_s / CHECK_EVERY_S) if self._scarce else 1.0
        if self._entered >= self._room * share:
            self._overloaded()
        self._entered += 1
        await self._turnstile.passed()

    def turned_away(self) -> None:
        """Give the place back of a request that entered and started nothing."""
        self._entered -= 1

    def _overloaded(self) -> None:
        self._refused = True
        raise OverloadedError(f"{self.open_turns_max} turns are open at most: try again later")

    @property
    def broken(self) -> str:
        """Return the code of the error for which all commands are refused, "" if there is none."""
        return "" if self._refusal is None else self._refusal.code

    async def watch(self) -> None:
        """Look at the ledger once a second, until cancelled."""
        before = ""
        while True:
            await self.look()
            code = self.broken or (OverloadedError.code if self._scarce else "")
            if code != before:
                what = "commands_refused" if code else "commands_taken"
                _log.warning(what, code=code, room=self._room)
            before = code
            await asyncio.sleep(CHECK_EVERY_S)

    async def look(self) -> None:
        """Look at the ledger once: what is refused, and how many starts may enter from now on."""
        self._refusal = await self._asked()
        if self._refusal is None:
            self._looked_at = self.clock()
            self._scarce, self._refused = self._refused or self._room <= 0, False
            self._started = self._entered = 0

    async def _asked(self) -> TurnstreamError | None:
        try:
            async with asyncio.timeout(CHECK_TIMEOUT_S):
                open_turns = await self.ledger.open_total()
                self.workers = await self.ledger.workers()
        except TimeoutError:
            self.workers = None
            return DatabaseUnavailableError(f"no answer for {CHECK_TIMEOUT_S:g} s")
        except DatabaseUnavailableError as error:
            self.workers = None
            return error
        self._room = self.open_turns_max - open_turns
        return None
