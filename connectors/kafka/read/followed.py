"""The topic as far as the tail has followed it, and the followers of its keys. No I/O, no clock.

Fetched bytes go into the ring as they are. Records are told apart by key before anything is
decoded: a record that has no follower costs one look-up.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeAlias

from turnstream.connectors.kafka.read.batch_layout import next_offset
from turnstream.connectors.kafka.read.batches import batch_records
from turnstream.connectors.kafka.read.ring import Ring

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Sink: TypeAlias = Callable[[int, int, bytes], None]
    """Takes the partition, the offset and the value of a record."""

    Lost: TypeAlias = Callable[[int], None]
    """Takes the partition of which records are missing."""


class Followed:
    """A position in each partition, the ring up to there, and what followers of keys are called.

    `ready` is set once every partition has reached the end that stood when the tail began.
    `records` counts the records that came, `followed_records` those that had a follower.
    """

    def __init__(self, ring_bytes_max: int) -> None:
        self.ready = asyncio.Event()
        self.ring = Ring(ring_bytes_max)
        self.positions: dict[int, int] = {}
        self.records = 0
        self.followed_records = 0
        self._sinks: dict[bytes, Sink] = {}
        self._lost: dict[bytes, Lost] = {}
        self._first_ends: dict[int, int] = {}
        self._behind: set[int] = set()

    def begin(self, starts: Mapping[int, int], ends: Mapping[int, int]) -> None:
        """Follow these partitions from `starts` on; `ends` are where they end now."""
        for number, start in starts.items():
            self.positions[number] = start
            self.ring.restart(number, start)
        self._first_ends = dict(ends)
        self._behind = {number for number, start in starts.items() if start < ends[number]}
        if not self._behind:
            self.ready.set()

    def follow(self, key: bytes, sink: Sink, lost: Lost) -> None:
        """Call `sink` for each record of the key from now on, `lost` when a partition has a gap."""
        self._sinks[key] = sink
        self._lost[key] = lost

    def unfollow(self, key: bytes) -> None:
        """Stop calling."""
        self._sinks.pop(key, None)
        self._lost.pop(key, None)

    def take(self, number: int, raw: bytes) -> None:
        """Put fetched bytes into the ring and call the followers, without an await between."""
        end = next_offset(raw)
        position = self.positions[number]
        if end is None or end <= position:  # what a former leader still had, come too late
            return
        keys: set[bytes] = set()
        sinks = self._sinks
        told: list[tuple[Sink, int, bytes]] = []
        for offset, key, value in batch_records(raw, position):
            if key is None or value is None:
                continue
            keys.add(key)
            sink = sinks.get(key)
            if sink is not None:
                told.append((sink, offset, value))
            self.records += 1
        self.positions[number] = end
        self.ring.add(number, end, raw, keys)
        self.followed_records += len(told)
        for sink, offset, value in told:
            sink(number, offset, value)

    def restart(self, number: int, start: int) -> None:
        """Go on at an offset that does not follow the last, and tell every follower."""
        self.positions[number] = start
        self.ring.restart(number, start)
        for lost in tuple(self._lost.values()):
            lost(number)

    def look_ready(self) -> None:
        """Set `ready` once, when every partition has reached its first end."""
        if not self._behind:
            return
        ends = self._first_ends
        self._behind = {number for number in self._behind if self.positions[number] < ends[number]}
        if not self._behind:
            self.ready.set()
