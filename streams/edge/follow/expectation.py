"""A wait for a turn's first record."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from turnstream.schemas.records.events import AttemptStarted, Event

if TYPE_CHECKING:
    import asyncio

    import msgspec


@dataclass(slots=True)
class Expectation:
    """Waits for the first record of a turn; with `past_start` for one that is no `AttemptStarted`.

    The future's result is the offset of the turn's first record, and the record waited for.
    """

    turn_id: str
    future: asyncio.Future[tuple[int, Event]]
    past_start: bool
    offset: int = -1

    def meet(self, offset: int, record: msgspec.Struct) -> None:
        """Take a record of the thread in log order."""
        if not isinstance(record, Event) or record.turn_id != self.turn_id or self.future.done():
            return
        if self.offset < 0:
            self.offset = offset
        if not (self.past_start and isinstance(record, AttemptStarted)):
            self.future.set_result((self.offset, record))
