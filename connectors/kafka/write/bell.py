"""When the next round leaves: a tick after the last one, or at once for what is urgent."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Bell:
    """Wakes the one loop that listens. `tick_s` is the least time between two rounds.

    `armed`: a ring that is not urgent would change nothing, so the caller may leave it out.
    """

    def __init__(self, tick_s: float, clock: Callable[[], float]) -> None:
        self.armed = True
        self._tick_s = tick_s
        self._clock = clock
        self._urgent = False
        self._last_round = 0.0
        self._rung: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def listen(self) -> asyncio.Future[None]:
        """Return a future that is done when the bell rings; call `heard` after it."""
        self.armed = False
        self._rung = asyncio.get_running_loop().create_future()
        return self._rung

    def ring(self, *, urgent: bool = False) -> None:
        """Wake the loop when a round is due; at once when `urgent`, now or since the last round."""
        if urgent:
            self._urgent = True
        rung = self._rung
        if rung is None or rung.done():
            return
        if self._urgent:
            self.armed = True
            rung.set_result(None)
        elif self._timer is None:
            self.armed = True
            wait_s = max(0.0, self._last_round + self._tick_s - self._clock())
            self._timer = rung.get_loop().call_later(wait_s, _set, rung)

    def hasten(self) -> None:
        """Make the next ring an urgent one."""
        self._urgent = True
        self.armed = False

    def heard(self) -> None:
        """Cancel the timer, so that it does not ring for the next round."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def left(self, *, urgent: bool) -> None:
        """Begin a tick, because a round leaves now; only with `urgent` does an urgency last."""
        self._urgent = self._urgent and urgent
        self._last_round = self._clock()

    def close(self) -> None:
        """Wake no waiter any more."""
        self._rung = None
        self.heard()


def _set(rung: asyncio.Future[None]) -> None:
    if not rung.done():
        rung.set_result(None)
