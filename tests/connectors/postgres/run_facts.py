"""What a session is told of a run where no runner tells it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from turnstream.connectors.postgres.checkpoints.hold import NoRun

if TYPE_CHECKING:
    from collections.abc import Callable

    from langgraph.checkpoint.base import Checkpoint


class LastBy(NoRun):
    """A run that tells which of its root checkpoints nothing runs after."""

    def __init__(self, is_last: Callable[[Checkpoint], bool]) -> None:
        self.is_last = is_last
