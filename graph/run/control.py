"""The way to stop a run from outside."""

from __future__ import annotations

from typing import TYPE_CHECKING

from langgraph.runtime import RunControl

if TYPE_CHECKING:
    from collections.abc import Callable

    from turnstream.schemas.errors import TurnError


class TurnControl:
    """Drains, cancels or fails one turn; each call takes effect once, from the loop's thread."""

    def __init__(self, turn_id: str = "") -> None:
        self.turn_id = turn_id
        self.run = RunControl()
        self.cause: str | None = None
        self.failure: TurnError | None = None
        self._stop: Callable[[], None] | None = None

    def drain(self, reason: str = "shutdown") -> None:
        """Stop at the end of the running step; the turn goes on elsewhere."""
        self.run.request_drain(reason)

    def cancel(self, cause: str) -> None:
        """Stop now and keep what was said."""
        if self.cause is None:
            self.cause = cause
            if self._stop is not None:
                self._stop()

    def fail(self, error: TurnError) -> None:
        """Stop now and end as failed, whatever the graph makes of being stopped."""
        if self.failure is None:
            self.failure = error
            if self._stop is not None:
                self._stop()

    def let_go(self) -> None:
        """Stop nothing any more; what was to be stopped is over."""
        self._stop = None

    def on_stop(self, stop: Callable[[], None]) -> None:
        """Call `stop` when the turn is cancelled or failed, at once if it is already."""
        self._stop = stop
        if self.cause is not None or self.failure is not None:
            stop()
