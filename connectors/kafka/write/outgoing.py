"""A record on its way into the log, and the sender that is called when it is there."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol, TypeAlias

if TYPE_CHECKING:
    from turnstream.schemas.errors import ProduceRefusedError

Headers: TypeAlias = "list[tuple[str, bytes]]"
Record: TypeAlias = "tuple[Sender, int, bytes, bytes, Headers]"
"""The sender, its own number of the record, key, value, headers."""

RECORD_OVERHEAD = 128
"""Bytes a record alone in its batch costs beyond key, value and headers, at most: 61 of the batch's
header, 21 of the record's, and the lengths of three headers (record format v2)."""


class Sender(Protocol):
    """Puts records into the pump, which calls it back."""

    @property
    def dead(self) -> bool:
        """Whether its unsent records are to be dropped."""
        ...

    def seal(self) -> None:
        """Put what is still open; called when a round is about to leave."""
        ...

    def landed(self, n: int, offset: int) -> None:
        """Note that record `n` is in the log; `offset` is -1 where the broker gave none."""
        ...

    def refused(self, error: ProduceRefusedError) -> None:
        """Note that the broker refused a batch with one of its records; nothing more is sent."""
        ...


class Delivery:
    """Sender of one record, whose caller awaits `offset`; a caller that went away drops it."""

    def __init__(self) -> None:
        self.offset: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    @property
    def dead(self) -> bool:
        """Whether the caller has its answer, or went away."""
        return self.offset.done()

    def seal(self) -> None:
        """Do nothing: one record is never open."""

    def landed(self, n: int, offset: int) -> None:  # noqa: ARG002  one record, no position
        """Give the caller the offset."""
        if not self.offset.done():
            self.offset.set_result(offset)

    def refused(self, error: ProduceRefusedError) -> None:
        """Give the caller the error."""
        if not self.offset.done():
            self.offset.set_exception(error)
