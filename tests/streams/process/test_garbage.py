"""Pauses are measured without a lock, and a full collection is made when nothing runs."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from turnstream.streams.process import garbage
from turnstream.streams.process.garbage import IdleCollector, Pauses


@pytest.fixture
def pauses() -> Iterator[Pauses]:
    measured = Pauses()
    gc.callbacks.append(measured.on_collection)
    yield measured
    gc.callbacks.remove(measured.on_collection)


def test_each_collection_is_measured(pauses: Pauses) -> None:
    gc.collect()
    gc.collect(0)
    assert sum(pauses.counts) >= 2
    assert 0 < pauses.longest_s <= pauses.total_s
    samples = {
        one.labels.get("le", one.name): one.value
        for metric in pauses.metrics()
        for one in metric.samples
    }
    assert samples["+Inf"] == sum(pauses.counts)
    assert samples["turnstream_gc_pause_seconds_sum"] == pauses.total_s
    assert samples["turnstream_gc_pause_longest_seconds"] == pauses.longest_s


def test_the_idle_collect_only_what_work_may_have_left(
    pauses: Pauses, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(garbage.time, "monotonic", lambda: now)
    full = []
    monkeypatch.setattr(garbage.gc, "collect", lambda: full.append(now))
    monkeypatch.setattr(garbage.gc, "get_freeze_count", lambda: frozen)
    frozen = 0
    collector = IdleCollector()
    collector.idle(5)
    assert not full, "the process has not settled"
    frozen = 1000
    collector.idle(0)
    assert not full, "nothing has run"
    collector.idle(5)
    collector.idle(6)
    assert len(full) == 1, "the last is recent"
    now += 60
    collector.idle(6)
    collector.idle(6)
    assert len(full) == 2
