"""The worker process: takes turns in, runs them, publishes them.

`run`, read from the top to the bottom, is its whole life:

1. the roster is ready to run attempts, the pump to produce what they emit
2. the watches look at the loop, at Kafka's acks and at the memory
3. the lease shows peers that this worker lives; it comes before the first claim
4. the upkeep begins: wake-ups of peers, polls behind them, the purge
5. the intake takes commands in
6. the worker is told to stop, or is above its limit of memory: it hands over what still runs, and
   everything ends
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

import structlog

from turnstream.streams.worker.drain import hand_over

if TYPE_CHECKING:
    from collections.abc import Sequence

    from turnstream.connectors.kafka.write.pump import Pump
    from turnstream.streams.worker.claims.roster import Roster
    from turnstream.streams.worker.intake import Intake
    from turnstream.streams.worker.watch.standing import Standing
    from turnstream.streams.worker.watch.stopping import Stopping
    from turnstream.streams.worker.watch.tenure import Tenure

log = structlog.get_logger(__name__)

FLUSH_TIMEOUT_S = 3.0


class Loop(Protocol):
    """A part that works for as long as the worker lives."""

    async def run(self) -> None:
        """Work until cancelled; raises what makes going on impossible."""
        ...


class _StoppedError(Exception):
    """The worker has handed over: what still runs in its group ends."""


class Worker:
    """One worker process. Its parts are opened by `app.worker.open_worker`.

    `watches` run from the start on, `upkeep` from the first lease on.
    """

    def __init__(
        self,
        *,
        standing: Standing,
        stopping: Stopping,
        roster: Roster,
        pump: Pump,
        tenure: Tenure,
        intake: Intake,
        watches: Sequence[Loop],
        upkeep: Sequence[Loop],
    ) -> None:
        self.roster = roster
        self._standing = standing
        self._stopping = stopping
        self._pump = pump
        self._tenure = tenure
        self._intake = intake
        self._watches = watches
        self._upkeep = upkeep

    @property
    def outgrown(self) -> bool:
        """Whether the process held too much memory and is to be replaced."""
        return self._stopping.outgrown

    def not_ready(self) -> str:
        """Return why this worker takes no turns, "" if it does."""
        if self._stopping.asked.is_set():
            return "draining"
        if trouble := self._standing.trouble():
            return trouble
        return "" if self._intake.placed.is_set() else "no input partitions yet"

    def stop(self) -> None:
        """Hand over and end; `run` returns when that is done."""
        self._stopping.ask()

    async def run(self) -> None:
        """Work until `stop`; raises what makes going on impossible."""
        try:
            async with asyncio.TaskGroup() as tasks:
                await self._work(tasks)
        except* _StoppedError:
            log.info("worker_stopped", worker=self._standing.name)

    async def _work(self, tasks: asyncio.TaskGroup) -> None:
        _start(tasks, self.roster, self._pump)  # 1
        _start(tasks, *self._watches)  # 2
        _start(tasks, self._tenure)  # 3
        await self._leased_or_stopped()
        _start(tasks, *self._upkeep)  # 4
        taking = tasks.create_task(self._intake.run(), name="intake")  # 5
        log.info("worker_ready", worker=self._standing.name, id=str(self._standing.worker))
        await self._stopping.asked.wait()  # 6
        await hand_over(self._intake, self.roster, budget_s=self._stopping.budget_s)
        await taking
        await self._flush()
        raise _StoppedError

    async def _leased_or_stopped(self) -> None:
        """Wait for the first lease; raises `_StoppedError` if a stop comes before it."""
        leased = self._tenure.leased
        waits = [asyncio.create_task(event.wait()) for event in (leased, self._stopping.asked)]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waits:
                task.cancel()
        if not leased.is_set():
            raise _StoppedError

    async def _flush(self) -> None:
        try:
            async with asyncio.timeout(FLUSH_TIMEOUT_S):
                await self._pump.flush()
        except TimeoutError:
            log.warning("records_left_unsent", bytes=self._pump.queued_bytes)


def _start(tasks: asyncio.TaskGroup, *loops: Loop) -> None:
    for loop in loops:
        tasks.create_task(loop.run(), name=type(loop).__name__)
