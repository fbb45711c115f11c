"""Where a reader stands: the log's offset in its public form.

A thread lives in one partition, so its Kafka offset is a durable cursor on which all edges agree.
The wire's integer `seq` is `(incarnation * 2^40 + offset) * 64 + k`, where `k` is the position of a
protocol event among those of its record. Offsets are below 2^40 and incarnations 0 to 127, so that
`seq` stays below 2^53 and a JavaScript number holds it. Pure; a cursor grants no access.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from turnstream.schemas.errors import InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Mapping

RECORD_EVENTS_MAX = 64
INCARNATIONS_MAX = 128
_OFFSETS = 1 << 40
SEQ_END = INCARNATIONS_MAX * _OFFSETS * RECORD_EVENTS_MAX


@dataclass(frozen=True, slots=True, order=True)
class Cursor:
    """The last protocol event that a reader has: the `k`-th of the record at `offset`.

    An offset of -1 stands before the log's first record.
    """

    incarnation: int
    offset: int
    k: int = RECORD_EVENTS_MAX - 1

    @property
    def seq(self) -> int:
        """Return the integer on the wire."""
        return (self.incarnation * _OFFSETS + self.offset) * RECORD_EVENTS_MAX + self.k

    @classmethod
    def of_seq(cls, seq: int) -> Cursor:
        """Return the cursor of an integer on the wire; raises `invalid_cursor`."""
        if not 0 <= seq < SEQ_END:
            raise InvalidRequestError(
                "since is no cursor of an event",
                code="invalid_cursor",
                field="since",
            )
        place, k = divmod(seq, RECORD_EVENTS_MAX)
        incarnation, offset = divmod(place, _OFFSETS)
        if offset == _OFFSETS - 1:  # before offset 0 of the next incarnation
            return cls(incarnation + 1, -1, k)
        return cls(incarnation, offset, k)

    @classmethod
    def parse(cls, text: str) -> Cursor:
        """Return the cursor in a `Last-Event-ID`; raises `invalid_cursor`."""
        if not (text.isascii() and text.isdigit() and len(text) <= 16):  # noqa: PLR2004  2^53 has 16 digits
            raise InvalidRequestError(
                "Last-Event-ID is no id of an event", code="invalid_cursor", field="since"
            )
        return cls.of_seq(int(text))


def first_seq(incarnation: int, offset: int) -> int:
    """Return the `seq` of a record's first protocol event; its k-th has this plus k."""
    return (incarnation * _OFFSETS + offset) * RECORD_EVENTS_MAX


def cursor_of(params: Mapping[str, object], last_event_id: str | None) -> Cursor | None:
    """Return the cursor of `since`, else of `Last-Event-ID`; raises `InvalidRequestError`."""
    since = params.get("since")
    if since is not None:
        if not isinstance(since, int) or isinstance(since, bool):
            raise InvalidRequestError("since must be an integer", code="invalid_cursor")
        return Cursor.of_seq(since)
    return Cursor.parse(last_event_id) if last_event_id else None
