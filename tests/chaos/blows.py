"""Faults of the stage's own processes, at a time: kills and planned restarts."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from tests.chaos.faults import FAULTS, NothingToStrikeError, fault

if TYPE_CHECKING:
    from tests.chaos.faults import Process, Stage

WEIGHTS = {"kill-worker": 3, "kill-idle": 1, "kill-workers": 1, "kill-edge": 1, "roll": 1}
"""How often each is drawn beside ten faults that have a point."""


GRACE_S = 25.0
"""Longer than `TURNSTREAM_DRAIN_TIMEOUT_S`."""


class _OfWorkers:
    scope = "stage"
    lasts_s = 0.0
    struck = ""

    async def heal(self, stage: Stage) -> None:
        """Nothing: the stage puts another in its place."""

    def _kill(self, process: Process | None) -> None:
        if process is None:
            raise NothingToStrikeError
        self.struck = process.name
        process.kill()


@fault
class KillWorker(_OfWorkers):
    """Kill -9 of a worker that runs a turn of this story, wherever it is in it."""

    name = "kill-worker"

    async def strike(self, stage: Stage) -> None:
        """Kill it."""
        self._kill(await stage.busy_worker())


@fault
class KillIdle(_OfWorkers):
    """Kill -9 of any worker: also of one that only takes turns in."""

    name = "kill-idle"

    async def strike(self, stage: Stage) -> None:
        """Kill it; where all were killed just before, there is none."""
        workers = list(stage.workers)
        self._kill(stage.random.choice(workers) if workers else None)


@fault
class KillWorkers(_OfWorkers):
    """Kill -9 of all workers at once: nobody stands by."""

    name = "kill-workers"

    async def strike(self, stage: Stage) -> None:
        """Kill them."""
        for worker in list(stage.workers):
            self._kill(worker)


@fault
class KillEdge(_OfWorkers):
    """Kill -9 of the edge, with all its sockets."""

    name = "kill-edge"

    async def strike(self, stage: Stage) -> None:
        """Kill it."""
        edges = list(stage.edges)
        self._kill(stage.random.choice(edges) if edges else None)


@fault
class Roll(_OfWorkers):
    """A rolling restart under load: SIGTERM to each worker in turn, and then to the edge."""

    name = "roll"

    async def strike(self, stage: Stage) -> None:
        """Restart them, one after the other."""
        for process in (*stage.workers, *stage.edges):
            if not process.alive:
                continue
            before = {other.name for other in (*stage.workers, *stage.edges)}
            process.terminate()
            # one that is frozen cannot hear it: who restarts it waits no longer than this
            deadline = time.monotonic() + GRACE_S
            await stage.until(
                lambda process=process, deadline=deadline: (
                    not process.alive or time.monotonic() > deadline
                ),
                "the end of one",
                2 * GRACE_S,
            )
            process.kill()
            for other in (*stage.workers, *stage.edges):
                if other.name not in before:
                    await other.ready_or_ended()


assert set(WEIGHTS) <= set(FAULTS)
