"""Lists of bounded size; items are encoded one by one, and their bytes counted."""

from __future__ import annotations

from starlette.responses import Response

from turnstream.schemas.errors import TooLargeError
from turnstream.streams.edge.surfaces.encoding import encode

ANSWER_BYTES_MAX = 16 << 20
"""Bytes of one list. A larger one is a 413, because a shorter list would look complete."""

STATES_AT_ONCE = 4
"""States of threads that one request holds in memory."""

STATES_PAGE = 20
RUNS_PAGE = 50
"""Rows that one read of Postgres returns, for a list that may be longer."""


class Listing:
    """A JSON list that is being built."""

    def __init__(self) -> None:
        self._items: list[bytes] = []
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._items)

    def add(self, value: object) -> None:
        """Add an item; raises `TooLargeError` (413, `answer_too_large`)."""
        item = encode(value)
        self._bytes += len(item) + 1
        if self._bytes > ANSWER_BYTES_MAX:
            raise too_large()
        self._items.append(item)

    def answer(self) -> Response:
        """Return the answer."""
        return Response(b"[" + b",".join(self._items) + b"]", media_type="application/json")


def too_large() -> TooLargeError:
    """Return the error for a list of more than `ANSWER_BYTES_MAX`."""
    return TooLargeError(
        f"the answer has more than {ANSWER_BYTES_MAX} bytes: lower the limit or select less",
        code="answer_too_large",
        field="limit",
    )
