"""One reader of one thread: bytes to changes. Pure but for the codec.

A reader begins at the start of a turn. From an `AttemptStarted` on, records of a lower epoch are
void for the whole thread (epochs rise from turn to turn). So a late record of an earlier turn whose
end lies before this reader's start, cannot look like a turn that runs. One that begins where no
turn runs is told the last epoch; and each, which turns ended unclaimed, for their ends have no such
order.

Where the database was put back to an earlier moment, turns that had ended begin anew, in a higher
timeline and in the same order. One that the fold knows is rewound. Of one that it does not know
(long ended, or from before this reader's start) nobody can say what to take back: see `Step.voids`.
So those are forgotten first that began first: after one that is known, all are.
"""

from __future__ import annotations

from typing import Protocol

import msgspec

from turnstream.schemas.errors import UndecodableError
from turnstream.schemas.fold.fold import TIMELINE_BITS, Change, ThreadFold, Verdict
from turnstream.schemas.records.events import AttemptStarted, Event, InputResolved, TurnEnded
from turnstream.schemas.unexpected import note

# turns that have run and are still in the fold, so that a rewind can name what it takes back
RUN_TURNS_KEPT = 4
# turns that are still in the fold, those that ended unclaimed too
TURNS_KEPT = 64
# turns that are over and known by their ids, so that nothing of them is shown again
ENDED_IDS_KEPT = 64


class Decoder(Protocol):
    """What turns a record's bytes into a record."""

    def decode(self, data: bytes) -> msgspec.Struct:
        """Return the record; raises `UndecodableError`."""
        ...


class Step(msgspec.Struct, frozen=True):
    """One record of the thread that counts: where and what it is, and what it changed.

    `change.turn` is the live view: it goes on changing. `record` and `offset` do not.
    `voids`: what a client was shown before is void, for the database was put back and turns begin
    again that this reader does not know.
    """

    offset: int
    record: msgspec.Struct
    change: Change
    voids: bool = False


class Reader:
    """Folds a thread's records in log order, from offset `begins` on.

    Records of epochs below `fence` are void, but for unclaimed ends: see `ended`. `timeline` is
    that of what the client was shown so far, 0 where nobody knows; a record before `begins` tells
    it and nothing else. `gaps` and `undecodable` count what should not be.
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
        """Take a turn as over: all of it that comes in this timeline, or one before, is void."""
        self._over[turn_id] = max(timeline, self._over.pop(turn_id, 0))
        if len(self._over) > ENDED_IDS_KEPT:
            del self._over[next(iter(self._over))]

    def take(self, offset: int, value: bytes) -> Step | None:
        """Take one record in; None for one that changes nothing."""
        try:
            return self._take(offset, value)
        except UndecodableError:
            self.undecodable += 1
        except Exception as error:  # noqa: BLE001  one record must not end its thread's readers
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
        """Say whether it is of an attempt that lost the thread, or of a turn that is over."""
        if record.epoch >> TIMELINE_BITS <= self._over.get(record.turn_id, -1):
            return True
        return record.epoch < self._fence and not isinstance(record, TurnEnded)

    def _told_by(self, record: Event) -> None:
        """Take a timeline from the last record that a client has seen.

        An unclaimed end and an answered question may be the first of theirs: turns that the client
        knows, and this reader does not, may begin again behind them.
        """
        timeline = record.epoch >> TIMELINE_BITS
        if isinstance(record, TurnEnded | InputResolved):
            timeline = min(self.timeline or timeline, timeline - 1)
        self.timeline = timeline

    def _voids(self, record: AttemptStarted | TurnEnded) -> bool:
        """Say whether a turn that is not known begins in a later timeline, the first there.

        Turns begin again in the order of their admission, so that after one that the fold knows
        there are none that it has forgotten. Unclaimed ends do not wait for the turns before them.
        """
        known = record.turn_id in self.fold.turns
        if known and isinstance(record, TurnEnded):
            return False
        before, now = self.timeline, record.epoch >> TIMELINE_BITS
        self.timeline = max(before, now)
        return 0 < before < now and not known

    def _begin_anew(self) -> None:
        """Know nothing of what earlier timelines said: it is void, and nothing of it comes back."""
        self.fold = ThreadFold()
        self._fence = max(self._fence, self.timeline << TIMELINE_BITS)

    def _forget(self) -> None:
        """Leave no more turns in the fold than are kept: those that began first go, in that order.

        A turn that runs again, for the database was put back, stays where it began, and so do those
        behind it: they are to run again after it.
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
