"""Watches from a thread whether the event loop ticks, and ends what blocks it.

1. blocked for `block_timeout_s`: a signal handler in the loop's thread stops the graph whose code
   blocks it (`graph/run/interrupting.py`); that turn fails with `graph_blocked`, its neighbours
   go on
2. blocked for `block_max_s`, by code that cannot be stopped: `replace` is called. The lease is not
   renewed any more at that time either (`connectors/postgres/ledger/lease.py`)

What counts is time that this thread has seen pass: a process that was frozen is not judged by it.
"""

from __future__ import annotations

import asyncio
import math
import signal
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import structlog

from turnstream.graph.run.interrupting import InterruptedGraphError, blocking_run, frames_of
from turnstream.schemas.errors import GraphBlockedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

log = structlog.get_logger(__name__)

LOOK_EVERY_S = 0.25
WARN_AFTER_S = 1.0
SIGNAL = signal.SIGURG
"""Ignored by default, so that one that comes when no handler is left harms nothing."""


class LoopWatch:
    """`beat` is called on the loop several times a second; `stopped` counts graphs that were."""

    def __init__(
        self,
        *,
        block_timeout_s: float = math.inf,
        block_max_s: float = math.inf,
        replace: Callable[[], None] | None = None,
    ) -> None:
        self._timeout_s = block_timeout_s
        self._max_s = block_max_s
        self._replace = replace
        self._beats = 0
        self._blocked_s = 0.0
        self._ended = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self.stopped = 0

    def beat(self) -> None:
        """Note that the event loop ticks."""
        self._beats += 1
        self._blocked_s = 0.0

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch the running loop; it has to be the main thread's, else nothing is done."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        self._loop = asyncio.get_running_loop()
        before = signal.signal(SIGNAL, self._on_signal)
        thread = threading.Thread(
            target=self._run, args=(threading.get_ident(),), name="loop-watch", daemon=True
        )
        thread.start()
        try:
            yield
        finally:
            self._ended.set()
            thread.join()
            signal.signal(SIGNAL, before or signal.SIG_DFL)

    def _run(self, watched: int) -> None:
        beats, warned = -1, False
        while not self._ended.wait(LOOK_EVERY_S):
            if self._beats != beats:
                beats, warned = self._beats, False
                self._blocked_s = 0.0
                continue
            self._blocked_s += LOOK_EVERY_S
            if self._blocked_s >= WARN_AFTER_S and not warned:
                warned = True
                frames = frames_of(sys._current_frames().get(watched))  # noqa: SLF001  documented
                log.warning("loop_blocked", for_s=self._blocked_s, frames=frames)
                del frames
            if self._replace is not None and self._blocked_s >= self._max_s:
                log.error("worker_replaced", why="its event loop is blocked")
                self._replace()
            elif self._blocked_s >= self._timeout_s:
                signal.pthread_kill(watched, SIGNAL)

    def _on_signal(self, _number: int, frame: FrameType | None) -> None:
        """Stop the graph that blocks the loop; runs in the loop's thread, between two bytecodes."""
        blocked_s = self._blocked_s
        if blocked_s < self._timeout_s or self._loop is None:
            return  # it has ticked meanwhile
        if asyncio.current_task(self._loop) is None:
            return
        control = blocking_run(frame)
        if control is None:
            return  # our own code, or a library's for us: the next signal may find the graph's
        why = f"the graph blocked its worker for {blocked_s:.0f} s; call blocking code in a thread"
        self._loop.call_soon_threadsafe(control.fail, GraphBlockedError(why))
        self.stopped += 1
        log.error("graph_blocked", for_s=blocked_s, turn=control.turn_id, frames=frames_of(frame))
        raise InterruptedGraphError(why)
