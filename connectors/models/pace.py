"""Reads of many streams at the same moments, a tick apart.

A token that comes alone wakes the process, and on a machine with other work that costs more than
all that is done with the token. What a worker says leaves in rounds a tick apart anyhow. So after
it gave something a stream is not read again until the tick is over, and then all are read at one
wake-up. A stream's first bytes are not held.
"""

from __future__ import annotations

import asyncio


class Pace:
    """Holds transports back until the next tick. `every_s` 0: holds nothing."""

    def __init__(self, every_s: float) -> None:
        self._every_s = every_s
        self._held: list[asyncio.Transport] = []
        self._let_at = 0.0

    def hold(self, transport: asyncio.Transport | None) -> None:
        """Read no more of a transport until the tick is over."""
        if not self._every_s or transport is None or transport.is_closing():
            return
        transport.pause_reading()
        self._held.append(transport)
        if len(self._held) == 1:
            loop = asyncio.get_running_loop()
            now = loop.time()
            due = self._let_at + self._every_s
            loop.call_at(due if due > now else now + self._every_s, self._let)

    def _let(self) -> None:
        self._let_at = asyncio.get_running_loop().time()
        held, self._held = self._held, []
        for transport in held:
            if not transport.is_closing():
                transport.resume_reading()
