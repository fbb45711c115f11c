"""The worker process: takes turns in, runs them, publishes them.

`run`, read from the top to the bottom, is its whole life:

1. the pump produces what turns say
2. the lease says that this worker lives; it comes before the first claim
3. wake-ups of peers are listened for, polls with jitter stand behind them
4. finished attempts are closed in batches
5. threads without an owner are claimed, those of dead peers freed, unclaimed ends published, what
   is long over forgotten
6. the intake takes commands in
7. told to stop, or above its limit of memory, it hands over what still runs, and everything ends
   in reverse
"""

from __future__ import annotations

import asyncio
import time
import uuid
from contextlib import suppress
from typing import TYPE_CHECKING

import structlog

from turnstream.connectors.postgres.ledger.signals import CANCEL_CHANNEL, READY_CHANNEL
from turnstream.schemas.errors import DatabaseUnavailableError
from turnstream.streams.process.garbage import IdleCollector
from turnstream.streams.process.memory import resident_bytes
from turnstream.streams.process.pace import BEAT_EVERY_S
from turnstream.streams.worker.drain import hand_over
from turnstream.streams.worker.hearing import PROBE_EVERY_S
from turnstream.streams.worker.polls import Polls
from turnstream.streams.worker.roster import Roster
from turnstream.streams.worker.unclaimed import Unclaimed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine
    from typing import Any
    from uuid import UUID

    from turnstream.connectors.kafka.write.pump import Pump
    from turnstream.connectors.postgres.ledger.lease import Lease, LeaseState
    from turnstream.connectors.postgres.ledger.ledger import Ledger
    from turnstream.connectors.postgres.ledger.rows import Claim
    from turnstream.connectors.postgres.ledger.signals import Listeners, Signals
    from turnstream.streams.process.loop_watch import LoopWatch
    from turnstream.streams.process.pace import Pace
    from turnstream.streams.worker.hearing import Hearing
    from turnstream.streams.worker.held import Held
    from turnstream.streams.worker.intake import Intake
    from turnstream.streams.worker.outlets import Outlets
    from turnstream.streams.worker.purge import Purge
    from turnstream.streams.worker.roster import Attempt

    # what the composition root hands in
    OpenLease = Callable[[UUID, Callable[[LeaseState], None]], Lease]
    Listen = Callable[[Listeners, Callable[[], None]], Awaitable[None]]

log = structlog.get_logger(__name__)

WATCH_LATE_S = 1.0
FLUSH_TIMEOUT_S = 3.0
RETRY_S = 0.5


class _StoppedError(Exception):
    """The worker has handed over: what still runs in its group ends."""


class Worker:
    """One worker process. The parts are opened by `app.worker.open_worker`."""

    def __init__(
        self,
        *,
        name: str,
        pump: Pump,
        ledger: Ledger,
        outlets: Outlets,
        signals: Signals,
        held: Held,
        open_lease: OpenLease,
        listen: Listen,
        attempt: Callable[[Claim, Callable[[Claim, str], Awaitable[None]]], Attempt],
        requeue: Callable[[], Awaitable[int]],
        purge: Purge,
        pace: Pace,
        memory_max_bytes: int,
        turns_max: int,
        hearing: Hearing,
        loop_watch: LoopWatch,
        drain_timeout_s: float,
    ) -> None:
        self.name = name
        self.pace = pace
        self.outgrown = False
        self._memory_max_bytes = memory_max_bytes
        self.loop_watch = loop_watch
        self._unclaimed = Unclaimed(ledger, outlets)
        self.roster = Roster(
            uuid.uuid4(),
            ledger,
            self._unclaimed,
            signals,
            turns_max=turns_max,
            limit=lambda: pace.limit,
            attempt=lambda claim: attempt(claim, self.roster.release),
            spawn=self._spawn,
        )
        self._pump = pump
        self._ledger = ledger
        self._held = held
        self._open_lease = open_lease
        self._listen = listen
        self._polls = Polls(
            roster=self.roster,
            unclaimed=self._unclaimed,
            ledger=ledger,
            signals=signals,
            requeue=requeue,
            steady_s=lambda: held.steady_s,
            works=lambda: held() and not hearing.stalled,
        )
        self._purge = purge
        self._hearing = hearing
        self._drain_timeout_s = drain_timeout_s
        self._intake: Intake | None = None
        self._leased = asyncio.Event()
        self._lost = asyncio.Event()
        self._stop = asyncio.Event()
        self._tasks: asyncio.TaskGroup | None = None

    def not_ready(self) -> str:
        """Return why this worker takes no turns, "" if it does."""
        if self._stop.is_set():
            return "draining"
        if not self._held():
            return "no lease"
        if self._hearing.stalled:
            return "Kafka does not acknowledge"
        if self._intake is None or not self._intake.placed.is_set():
            return "no input partitions yet"
        return ""

    def stop(self) -> None:
        """Hand over and end; `run` returns when that is done."""
        self.outgrown = False  # it is not to start anew
        self._memory_max_bytes = 0
        self._stop.set()

    def take_from(self, intake: Intake) -> None:
        """Say where the turns come from; before `run`."""
        self._intake = intake

    async def run(self) -> None:
        """Work until `stop`; raises what makes going on impossible."""
        if self._intake is None:
            raise RuntimeError("take_from() comes first")
        intake = self._intake
        try:
            with self.loop_watch.watching():
                async with asyncio.TaskGroup() as tasks:
                    self._tasks = tasks
                    await self._work(tasks, intake)
        except* _StoppedError:
            log.info("worker_stopped", worker=self.name)

    async def _work(self, tasks: asyncio.TaskGroup, intake: Intake) -> None:
        tasks.create_task(self._pump.run(), name="pump")  # 1
        tasks.create_task(self._hold_lease(), name="lease")  # 2
        tasks.create_task(self._watch(), name="watch")
        tasks.create_task(self._probe(), name="probe")
        await self._leased_or_stopped()
        tasks.create_task(self._hear(), name="listen")  # 3
        tasks.create_task(self.roster.run_finishes(), name="finish")  # 4
        self._polls.start(tasks)  # 5
        tasks.create_task(self._purge.run(), name="purge")
        taking = tasks.create_task(intake.run(), name="intake")  # 6
        log.info("worker_ready", worker=self.name, id=str(self.roster.worker))
        await self._stop.wait()  # 7
        self._spawn(self._stop_taking())
        await hand_over(intake, self.roster, budget_s=self._drain_timeout_s)
        await taking
        await self._flush()
        raise _StoppedError

    async def _leased_or_stopped(self) -> None:
        """Wait for the first lease; raises `_StoppedError` if a stop comes before it."""
        waits = [asyncio.create_task(event.wait()) for event in (self._leased, self._stop)]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waits:
                task.cancel()
        if not self._leased.is_set():
            raise _StoppedError

    async def _stop_taking(self) -> None:
        with suppress(DatabaseUnavailableError):
            await self._ledger.stop_taking(self.roster.worker)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        if self._tasks is None:
            raise RuntimeError("the worker does not run")
        self._tasks.create_task(work)

    # -- the lease -------------------------------------------------------------------------------

    async def _hold_lease(self) -> None:
        """Keep a lease; when one is lost, its attempts end, and a new life begins."""
        while True:
            try:
                async with self._open_lease(self.roster.worker, self._on_lease) as lease:
                    self._held.lease = lease
                    self._leased.set()
                    self.roster.wake.set()
                    self._pump.hurry()
                    await self._lost.wait()
            except DatabaseUnavailableError as error:
                log.warning("lease_waits", error=str(error))
                await asyncio.sleep(RETRY_S)
                continue
            log.warning("lease_lost", worker=self.name, turns=len(self.roster.running))
            self._lost.clear()
            attempts = list(self.roster.running.values())
            for attempt in attempts:
                attempt.abandon()
            if not lease.faltered:
                self._spawn(self.roster.excuse([attempt.claim for attempt in attempts]))
            self.roster.worker = uuid.uuid4()

    def _on_lease(self, state: LeaseState) -> None:
        log.info("lease", state=state)
        if state == "lost":
            self._lost.set()
        elif state == "held":
            self._pump.hurry()

    async def _watch(self) -> None:
        """Beat for the lease, and see whether Kafka acknowledges: while it does not, turns hold."""
        late_s, garbage = 0.0, IdleCollector()
        while True:
            self.loop_watch.beat()
            if self._held.lease is not None:
                self._held.lease.beat()
            before = self._hearing.stalled
            if late_s < WATCH_LATE_S:  # after a pause of this loop, answers may wait to be read
                self._hearing.look(due_s=self._pump.stalled_s(), silent_s=self._pump.silent_s())
            stalled = self._hearing.stalled
            if stalled and not before:
                log.error("acks_stalled", turns=len(self.roster.running))
            elif before and not stalled:
                log.info("acks_again")
                self.roster.wake.set()
            self.roster.accepting = self._held() and not stalled
            if not self.roster.running:
                garbage.idle(self.roster.counts.claimed)
            self._look_at_memory()
            began = time.monotonic()
            await asyncio.sleep(BEAT_EVERY_S)
            now = time.monotonic()
            late_s = now - began - BEAT_EVERY_S
            if self.pace.beat(now, late_s=late_s, running=len(self.roster.running)):
                self.roster.wake.set()

    def _look_at_memory(self) -> None:
        """Hand over above the limit of memory; then `outgrown` says that a new process is due."""
        if not self._memory_max_bytes or self.outgrown:
            return
        held = resident_bytes()
        if held <= self._memory_max_bytes:
            return
        limit = self._memory_max_bytes
        log.error("memory_exceeded", bytes=held, limit=limit, turns=len(self.roster.running))
        self.roster.trouble = f"its worker held {held >> 20} MiB, {limit >> 20} are allowed"
        self.outgrown = True
        self._stop.set()

    async def _probe(self) -> None:
        """Learn whether Kafka answers, also while there is nothing to say.

        A worker that hears nothing gives its threads up if a peer does hear: that one can go on.
        If nobody hears, a peer could do no better, and readers would be rewound for nothing.
        """
        while True:
            await asyncio.sleep(PROBE_EVERY_S)
            if self._pump.silent_s() > PROBE_EVERY_S:
                await self._pump.probe()
            if not self._hearing.stalled or not self.roster.running:
                continue
            try:
                # an outage ends all answers at about the same time; whose are much newer than
                # ours hears on, though a probe and a renewal may lie in between
                within_s = self._pump.silent_s() / 2
                if not await self._ledger.peer_hears(self.roster.worker, within_s):
                    continue
            except DatabaseUnavailableError:
                continue
            log.error("threads_left_to_peers", turns=len(self.roster.running))
            for attempt in list(self.roster.running.values()):
                attempt.halt("no acks", silently=True)

    # -- wake-ups --------------------------------------------------------------------------------

    async def _hear(self) -> None:
        await self._listen(
            {CANCEL_CHANNEL: self._on_cancel, READY_CHANNEL: self._on_ready}, self._on_connect
        )

    def _on_cancel(self, thread_key: str) -> None:
        if thread_key in self.roster.running:
            self._spawn(self.roster.look_for_cancels([thread_key]))

    def _on_ready(self, worker: str) -> None:
        if worker == str(self.roster.worker):
            self.roster.wake.set()

    def _on_connect(self) -> None:
        """Look for what was said while nobody listened; the ledger may be another, too."""
        self.roster.wake.set()
        if self._intake is not None:
            self._intake.look_again()
        self._spawn(self.roster.look_for_cancels(list(self.roster.running)))

    async def _flush(self) -> None:
        try:
            async with asyncio.timeout(FLUSH_TIMEOUT_S):
                await self._pump.flush()
        except TimeoutError:
            log.warning("records_left_unsent", bytes=self._pump.queued_bytes)
