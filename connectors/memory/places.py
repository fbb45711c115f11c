"""The twin of the ledger as the place of threads' records."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from turnstream.schemas.places import Place


@dataclass(slots=True)
class MemoryPlaces:
    """Places by thread key, and the offsets of turns' first records by thread key and turn id."""

    places: dict[str, Place] = field(default_factory=dict)
    starts: dict[tuple[str, str], int] = field(default_factory=dict)

    async def place(self, key: str) -> Place | None:
        """Return the place of a thread; None for an unknown one."""
        return self.places.get(key)

    async def start_of(self, key: str, turn_id: str) -> int | None:
        """Return the offset of a turn's first record; None if the thread has none of it."""
        return self.starts.get((key, turn_id))
