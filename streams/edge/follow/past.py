"""Records that a reader has missed, read from the ring or from the log up to what is live."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from turnstream.schemas.records.events import Event, TurnEnded, TurnInterrupted
from turnstream.streams.edge.follow.cursor import Cursor
from turnstream.streams.edge.follow.places import Begins

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from turnstream.streams.edge.follow.places import Log
    from turnstream.streams.edge.follow.reader import Reader, Step

REPLAY_BATCH = 256
"""Records of the ring that are read in one iteration of the event loop."""

Seen = TypeVar("Seen")


@dataclass(slots=True)
class Past(Generic[Seen]):
    """Reads a thread's records from `position` on.

    `see` is called with each step, in log order. With a `sift`, steps are held back until the end,
    and only those that it keeps are given out.
    """

    log: Log
    partition: int
    key: bytes
    reader: Reader
    see: Callable[[Step], Seen]
    position: int
    sift: Sift[Seen] | None

    async def steps(self) -> AsyncGenerator[Begins | list[tuple[Step, Seen]], None]:
        """Yield steps until ring and log hold no more; the end comes without an await."""
        while True:
            held = self.log.held(self.partition, self.key, self.position)
            if held is None:
                past = self.log.read(self.partition, self.key, self.position)
                async with aclosing(past):
                    async for reached, entries in past:
                        self.position = reached
                        if steps := self._taken(entries):
                            yield steps
            elif held:
                batch = held[:REPLAY_BATCH]
                self.position = batch[-1][0] + 1
                if steps := self._taken(batch):
                    yield steps
                await asyncio.sleep(0)  # a long replay must not delay live readers
            elif self.sift is None:
                return
            else:
                steps, self.sift = self.sift.release(), None
                end = max(self.position, self.log.end(self.partition))
                first = steps[0][0].offset if steps else end
                yield Begins(Cursor(self.log.incarnation, first - 1))
                if steps:
                    yield steps

    def _taken(self, entries: list[tuple[int, bytes]]) -> list[tuple[Step, Seen]]:
        taken = (self.reader.take(offset, value) for offset, value in entries)
        steps = [(step, self.see(step)) for step in taken if step is not None]
        if self.sift is None:
            return steps
        for step, seen in steps:
            self.sift.take(step, seen)
        return []


class Sift(Generic[Seen]):
    """Keeps the steps of the turn that is alive, for a reader without a cursor.

    With `from_turn`, of which the ledger did not know the beginning yet, it keeps the steps of that
    turn and all later ones, also if the turn ends while the log is read.
    """

    def __init__(self, from_turn: str) -> None:
        self._from_turn = from_turn
        self._turn_id = ""
        self._steps: list[tuple[Step, Seen]] = []

    def take(self, step: Step, seen: Seen) -> None:
        """Take a step, and what was seen of it."""
        record = step.record
        if self._from_turn:
            if self._steps or (isinstance(record, Event) and record.turn_id == self._from_turn):
                self._steps.append((step, seen))
            return
        if not isinstance(record, Event) or isinstance(record, TurnEnded):
            return
        if record.turn_id != self._turn_id:
            self._turn_id = record.turn_id
            self._steps = []
        self._steps.append((step, seen))
        if record.terminal and not isinstance(record, TurnInterrupted):
            self._steps = []

    def release(self) -> list[tuple[Step, Seen]]:
        """Return the steps that were kept, and keep them no longer."""
        steps, self._steps = self._steps, []
        return steps
