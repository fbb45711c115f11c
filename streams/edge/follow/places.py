"""What the feed needs from outside: the log, and the place of a thread in it. Ports, no code."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import asyncio
    from collections.abc import AsyncGenerator, Callable

    from turnstream.schemas.places import Place
    from turnstream.streams.edge.follow.cursor import Cursor


class Places(Protocol):
    """Says where a thread's records lie; raises `DatabaseUnavailableError`."""

    async def place(self, key: str) -> Place | None:
        """Return the place of a thread; None for an unknown one."""
        ...

    async def start_of(self, key: str, turn_id: str) -> int | None:
        """Return the offset of a turn's first record; None if the thread has none of it."""
        ...


class Log(Protocol):
    """The tail of `turn-events`: what has come so far, and what comes.

    Its incarnation and its ends are not known before it is `ready`.
    """

    ready: asyncio.Event
    incarnation: int

    def follow(
        self, key: bytes, sink: Callable[[int, int, bytes], None], lost: Callable[[int], None]
    ) -> None:
        """Call `sink(partition, offset, value)` for each record of the key from now on.

        `lost(partition)` is called where records are missing: what was read before does not go on.
        """
        ...

    def unfollow(self, key: bytes) -> None:
        """Stop calling."""
        ...

    def partition_of(self, key: bytes) -> int:
        """Return the partition where the key's records lie once there are any."""
        ...

    def end(self, partition: int) -> int:
        """Return the offset after the last record that sinks were called with."""
        ...

    def held(self, partition: int, key: bytes, first: int) -> list[tuple[int, bytes]] | None:
        """Return the key's next records from `first` on; None if the ring does not hold `first`."""
        ...

    async def bounds(self, partition: int) -> tuple[int, int]:
        """Ask the broker for the partition's first offset and its end."""
        ...

    async def at_time(self, partition: int, unix_ms: int) -> int:
        """Return the first offset at or after a time."""
        ...

    def read(
        self, partition: int, key: bytes, first: int
    ) -> AsyncGenerator[tuple[int, list[tuple[int, bytes]]]]:
        """Read the log itself from `first` on, up to where the ring begins.

        Yields the offset reached so far and the key's records before it.
        """
        ...


@dataclass(frozen=True, slots=True)
class Reset:
    """What the reader was shown is void; the thread's state is the truth.

    `cursor` is where the reader stands now. `alive`: a turn goes on from here.
    """

    cursor: Cursor
    alive: bool


@dataclass(frozen=True, slots=True)
class Begins:
    """The first item of a reader without a cursor: all that it is shown comes after `cursor`."""

    cursor: Cursor
