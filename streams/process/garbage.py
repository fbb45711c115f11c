"""Garbage collection that does not stop streams, and how long it does stop them.

What the start made is frozen: no collection looks at it again. Turns leave nothing in cycles
(`tests/integration/worker/test_memory.py`), graphs that people bring may. Young collections are
small. A full one is made while nothing runs; under steady load the third threshold bounds what
waits.
"""

from __future__ import annotations

import gc
import time
from bisect import bisect_left
from typing import TYPE_CHECKING

from prometheus_client.core import GaugeMetricFamily, HistogramMetricFamily

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client.core import Metric

THRESHOLDS = (5_000, 10, 3)
"""Objects before a young collection; young ones before a middle one, of 50,000 objects or less;
middle ones before a full one: at most 200,000 objects wait for it."""

IDLE_EVERY_S = 10.0
BUCKETS_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25)


class Pauses:
    """How long the collections of this process took, in CPU time of the thread that made them.

    On free cores that is how long everything stood still; what neighbours take is not counted.
    No lock and no object of a client library: a collection may begin in the middle of theirs.
    """

    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS_S) + 1)
        self.total_s = 0.0
        self.longest_s = 0.0
        self._began = 0.0

    def on_collection(self, phase: str, _info: dict[str, int]) -> None:
        """Note the start or the end of a collection (`gc.callbacks`)."""
        if phase == "start":
            self._began = time.thread_time()
            return
        took_s = time.thread_time() - self._began
        self.counts[bisect_left(BUCKETS_S, took_s)] += 1
        self.total_s += took_s
        self.longest_s = max(self.longest_s, took_s)

    def metrics(self) -> Iterator[Metric]:
        """Yield `turnstream_gc_pause_seconds` and the longest of them."""
        bounds, sums, so_far = [*map(str, BUCKETS_S), "+Inf"], [], 0
        for bound, count in zip(bounds, self.counts, strict=True):
            so_far += count
            sums.append((bound, float(so_far)))
        yield HistogramMetricFamily(
            "turnstream_gc_pause_seconds",
            "CPU time of garbage collections, each of which stops everything in the process",
            buckets=sums,
            sum_value=self.total_s,
        )
        yield GaugeMetricFamily(
            "turnstream_gc_pause_longest_seconds",
            "The longest garbage collection since the start",
            value=self.longest_s,
        )


pauses = Pauses()


def settle_memory() -> None:
    """Take what the start made out of garbage collection, bound and measure what comes after it."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)
    if pauses.on_collection not in gc.callbacks:
        gc.callbacks.append(pauses.on_collection)


class IdleCollector:
    """Makes a full collection now and then while nothing is going on."""

    def __init__(self) -> None:
        self._at = 0.0
        self._done = 0

    def idle(self, done: int) -> None:
        """Collect everything, unless no work was `done` since the last time, or it is recent.

        To be called while nothing runs that a pause would hold up; `done` counts what has run. A
        process that has not settled its memory is left alone: a collection would take long.
        """
        now = time.monotonic()
        if done != self._done and now - self._at > IDLE_EVERY_S and gc.get_freeze_count():
            self._at, self._done = now, done
            gc.collect()
