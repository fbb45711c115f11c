"""Ends a campaign in which nothing goes on any more, and says where everything stood.

A campaign waits for much that its own faults may keep from coming. Each wait should have a bound;
this is for the one that has none.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import os
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

STANDS_S = 240.0
"""Longer than the longest story, a stage's opening, or the look for what is left of one."""
END_S = 60.0
"""To end in order, once it is told to."""
CODE = 3
"""The exit code of a campaign that did not end even then."""


class Standstill:
    """Watches, from a thread of its own, whether `went_on` is called often enough."""

    def __init__(self, stands_s: float = STANDS_S, end_s: float = END_S) -> None:
        self._stands_s, self._end_s = stands_s, end_s
        self._last = time.monotonic()
        self._over = threading.Event()

    def went_on(self) -> None:
        """Something has ended: a story, a stage's opening."""
        self._last = time.monotonic()

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Watch the loop that runs here until the block ends."""
        loop = asyncio.get_running_loop()
        threading.Thread(target=self._watch, args=(loop,), daemon=True).start()
        try:
            yield
        finally:
            self._over.set()

    def _watch(self, loop: asyncio.AbstractEventLoop) -> None:
        while not self._over.wait(max(0.0, self._last + self._stands_s - time.monotonic())):
            if time.monotonic() - self._last < self._stands_s:
                continue
            sys.stderr.write(f"\nnothing has ended for {self._stands_s:g} s; it stands at:\n")
            for task in asyncio.all_tasks(loop):
                sys.stderr.write(f"{task.get_name()}: {' > '.join(waits(task.get_coro()))}\n")
            sys.stderr.flush()
            faulthandler.dump_traceback()
            os.kill(os.getpid(), signal.SIGINT)
            if not self._over.wait(self._end_s):
                os._exit(CODE)
            return


def waits(awaited: Any) -> list[str]:
    """Return where a coroutine stands, from itself to what it waits for: `play:104`."""
    places = []
    while awaited is not None:
        frame = getattr(awaited, "cr_frame", None) or getattr(awaited, "ag_frame", None)
        if frame is not None:
            places.append(f"{frame.f_code.co_qualname}:{frame.f_lineno}")
        awaited = getattr(awaited, "cr_await", None) or getattr(awaited, "ag_await", None)
    return places
