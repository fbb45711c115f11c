"""Tasks whose last item has been translated, so that the saver can wait for them."""

from __future__ import annotations

import asyncio

TASK_END_TIMEOUT_S = 1.0
"""For a task's end to come through the stream before its writes are stored without it; only nodes
that LangGraph hides have none."""


class TaskEnds:
    """The ends of one attempt's tasks, by their ids."""

    def __init__(self, timeout_s: float = TASK_END_TIMEOUT_S) -> None:
        self._timeout_s = timeout_s
        self._ended: set[str] = set()
        self._waiting: dict[str, asyncio.Event] = {}

    def ended(self, task_id: str) -> None:
        """Note the end of a task."""
        self._ended.add(task_id)
        if (event := self._waiting.pop(task_id, None)) is not None:
            event.set()

    async def wait(self, task_id: str) -> None:
        """Wait for the end of a task, at most for the time-out."""
        if task_id in self._ended:
            return
        event = self._waiting.setdefault(task_id, asyncio.Event())
        try:
            async with asyncio.timeout(self._timeout_s):
                await event.wait()
        except TimeoutError:
            self._waiting.pop(task_id, None)
