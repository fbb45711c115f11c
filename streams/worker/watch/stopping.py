"""Whether a worker is to stop, and whether a new process takes its place."""

from __future__ import annotations

import asyncio


class Stopping:
    """`asked` is set when the worker is to stop. It has `budget_s` seconds to hand its turns over.

    `outgrown`: the process held too much memory and is to be replaced.
    """

    def __init__(self, budget_s: float) -> None:
        self.budget_s = budget_s
        self.asked = asyncio.Event()
        self.outgrown = False
        self._for_good = False

    def ask(self) -> None:
        """Stop for good: no new process takes this one's place."""
        self._for_good = True
        self.outgrown = False
        self.asked.set()

    def replace(self) -> None:
        """Stop, and let a new process take this one's place, unless it stops for good already."""
        self.outgrown = not self._for_good
        self.asked.set()
