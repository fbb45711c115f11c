"""Pauses between tries: short at first, because a leader moves in moments, then longer. No I/O."""

from __future__ import annotations


class Pauses:
    """Seconds to wait after failures in a row: `first_s`, then twice as long, up to `most_s`."""

    def __init__(self, first_s: float, most_s: float) -> None:
        self._first_s = first_s
        self._most_s = most_s
        self._next_s = min(first_s, most_s)

    def after_failure_s(self) -> float:
        """Return how long to wait now."""
        pause_s = self._next_s
        self._next_s = min(2 * pause_s, self._most_s)
        return pause_s

    def reset(self) -> None:
        """Begin anew: a try succeeded."""
        self._next_s = min(self._first_s, self._most_s)
