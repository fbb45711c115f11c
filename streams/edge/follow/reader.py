"""One reader of one thread: bytes to changes. Pure except for the codec.

A reader begins at the start of a turn. From an `AttemptStarted` on, records of a lower epoch are
void for the whole thread, because epochs rise from turn to turn. So a late record of an earlier
turn, whose end lies before this reader's start, does not look like a running turn. A reader that
starts between turns receives the thread's last epoch. Every reader also receives the ids of turns
that ended unclaimed, because their end records have no epoch.

After the database was restored to an earlier moment, turns that had ended begin again, in a higher
timeline and in the same order. A turn that the fold knows is rewound. For a turn that it does not
know (it ended long ago, or before this reader's start) the reader cannot say what to take back: see
`Step.voids`. The oldest turns are evicted first, so every turn after a known turn is known too.
"""

from __future__ import annotations

from typing import Protocol

import msgspec

from turnstream.schemas.errors import UndecodableError
from turnstream.schemas.fold.fold import TIMELINE_BITS, Change, ThreadFold, Verdict
from turnstream.schemas.records.events import AttemptStarted, Event, InputResolved, TurnEnded
from turnstream.schemas.unexpected import note

RUN_TURNS_KEPT = 4
"""Turns that ran and are still in the fold, so that a rewind can name what it takes back."""
TURNS_KEPT = 64
"""Turns in the fold, including those that ended unclaimed."""
ENDED_IDS_KEPT = 64
"""Ended turns known by their ids, so that their records are not shown again."""


class Decoder(Protocol):
    """Turns bytes into a record."""

    def decode(self, data: bytes) -> msgspec.Struct:
        """Return the record; raises `UndecodableError`."""
        ...


class Step(msgspec.Struct, frozen=True):
    """One record of the thread that changed something.

    `change.turn` is the live view and goes on changing; `record` and `offset` do not. `voids`: what
    a client was shown before is void, because the database was restored and turns begin again that
    this reader does not know.
    """

    offset: int
    record: msgspec.Struct
    change: Change
    voids: bool = False


class Reader:
    """Folds a thread's records in log order, from offset `begins` on.

    Records of epochs below `fence` are void, except unclaimed ends: see `ended`. `timeline` is that
    of what the client was shown so far, 0 if it is unknown; a record before `begins` sets it and
    does nothing else. `gaps` and `undecodable` count integrity errors.
    """

    def __init__(self, decoder: Decoder, *, begins: int = 0, fence: int = 0) -> None:
        self.begins = begins
        self.timeline = 0
        self.fold = ThreadFold()
        self.gaps = 0
        self.undecodable = 0
        self._decoder = decoder
        self._fence = fence
        self._over: dict[str, int] = {}

    def ended(self, turn_id: str, timeline: int) -> None:
        """Note that a turn is over: its later records up to this timeline are void."""
        self._over[turn_id] = max(timeline, self._over.pop(turn_id, 0))
        if len(self._over) > ENDED_IDS_KEPT:
            del self._over[next(iter(self._over))]

    def take(self, offset: int, value: bytes) -> Step | None:
        """Take one record; return None if it changes nothing."""
        try:
            return self._take(offset, value)
        except UndecodableError:
            self.undecodable += 1
        except Exception as error:  # noqa: BLE001  one bad record must not end its thread's readers
            note("edge_reader", error, offset=offset)
            self.undecodable += 1
        return None

    def _take(self, offset: int, value: bytes) -> Step | None:
        record = self._decoder.decode(value)
        if offset < self.begins:
            if isinstance(record, Event):
                self._told_by(record)
            return None
        voids = False
        if isinstance(record, Event) and not isinstance(record, InputResolved):
            if self._is_void(record):
                return None
            if isinstance(record, AttemptStarted):
                voids = self._voids(record)
                self._fence = record.epoch
            elif isinstance(record, TurnEnded):
                voids = self._voids(record)
            if voids:
                self._begin_anew()
        change = self.fold.apply(record, offset)
        if change.verdict is Verdict.IGNORED:
            return None
        self.gaps += change.verdict is Verdict.GAP
        step = Step(offset, record, change, voids)
        if isinstance(record, Event) and record.terminal:
            self._forget()
        return step

    def _is_void(self, record: Event) -> bool:
        """Return whether it is of an attempt that lost the thread, or of a turn that is over."""
        if record.epoch >> TIMELINE_BITS <= self._over.get(record.turn_id, -1):
            return True
        return record.epoch < self._fence and not isinstance(record, TurnEnded)

    def _told_by(self, record: Event) -> None:
        """Set the timeline from the last record that a client has seen.

        An unclaimed end or an answered question may be the first record of its timeline. Then turns
        that the client knows, and this reader does not, may begin again behind it.
        """
        timeline = record.epoch >> TIMELINE_BITS
        if isinstance(record, TurnEnded | InputResolved):
            timeline = min(self.timeline or timeline, timeline - 1)
        self.timeline = timeline

    def _voids(self, record: AttemptStarted | TurnEnded) -> bool:
        """Return whether an unknown turn is the first to begin in a later timeline.

        Turns begin again in the order of their admission, so after a turn that the fold knows there
        is none that it has evicted. Unclaimed ends do not wait for the turns before them.
        """
        known = record.turn_id in self.fold.turns
        if known and isinstance(record, TurnEnded):
            return False
        before, now = self.timeline, record.epoch >> TIMELINE_BITS
        self.timeline = max(before, now)
        return 0 < before < now and not known

    def _begin_anew(self) -> None:
        """Empty the fold: what earlier timelines said is void, and none of it comes back."""
        self.fold = ThreadFold()
        self._fence = max(self._fence, self.timeline << TIMELINE_BITS)

    def _forget(self) -> None:
        """Evict turns from the fold above its bounds, the oldest first.

        A turn that runs again after a restore stays in its place, and so do the turns behind it,
        because they run again after it.
        """
        turns = self.fold.turns
        run = sum(not isinstance(view.terminal, TurnEnded) for view in turns.values())
        while run > RUN_TURNS_KEPT or len(turns) > TURNS_KEPT:
            view = next(iter(turns.values()))
            if view.epoch >= self._fence and not view.done:
                return
            del turns[view.turn_id]
            run -= not isinstance(view.terminal, TurnEnded)
            self.ended(view.turn_id, view.epoch >> TIMELINE_BITS)
