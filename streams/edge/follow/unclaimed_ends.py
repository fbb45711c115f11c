"""Ends of unclaimed turns from before a reader begins: their records may come again.

The worker that decides such an end publishes it and then tells the ledger. If it dies in between,
or is slow, another worker publishes the end again. Epochs fence the records of claimed turns; they
do not fence these.
"""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from turnstream.schemas.errors import UndecodableError
from turnstream.schemas.fold.fold import TIMELINE_BITS
from turnstream.schemas.records.events import TurnEnded
from turnstream.streams.edge.follow.beginnings import CLOCKS_APART_MS

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from turnstream.schemas.places import Place
    from turnstream.streams.edge.follow.places import Log
    from turnstream.streams.edge.follow.reader import Decoder, Reader


@dataclass(frozen=True, slots=True)
class UnclaimedEnds:
    """Tells readers which of these ends their clients have seen."""

    log: Log
    decoder: Decoder

    async def tell(self, reader: Reader, key: bytes, place: Place, after: int) -> None:
        """Tell a reader the ends before its beginning; its client has all before `after` (R2).

        The ledger knows the last record of an end, or none yet. That record may lie behind `after`.
        Whether an earlier one exists, the log shows from the time on when the end was decided.
        """
        asked: dict[str, int] = {}
        for end in place.ends:
            if end.offset is not None and end.offset < after:
                if end.offset < reader.begins:
                    reader.ended(end.turn_id, place.timeline)
            else:
                asked[end.turn_id] = end.decided_ms
        if not asked:
            return
        decided_ms = max(0, min(asked.values()) - CLOCKS_APART_MS)
        first = await self.log.at_time(place.partition, decided_ms)
        async with aclosing(self._ends(place.partition, key, first, reader.begins)) as ends:
            async for said in ends:
                if said.turn_id in asked:
                    reader.ended(said.turn_id, said.epoch >> TIMELINE_BITS)

    async def _ends(
        self, partition: int, key: bytes, first: int, until: int
    ) -> AsyncGenerator[TurnEnded, None]:
        position = first
        while position < until:
            held = self.log.held(partition, key, position)
            if held is not None:
                for end in self._decoded(held, until):
                    yield end
                return
            async with aclosing(self.log.read(partition, key, position)) as past:
                async for reached, entries in past:
                    position = reached
                    for end in self._decoded(entries, until):
                        yield end
                    if position >= until:
                        return

    def _decoded(self, entries: list[tuple[int, bytes]], until: int) -> list[TurnEnded]:
        found = []
        for offset, value in entries:
            if offset >= until:
                break
            try:
                record = self.decoder.decode(value)
            except UndecodableError:
                continue
            if isinstance(record, TurnEnded):
                found.append(record)
        return found
