"""One attempt at one turn, from the fence to its result (rules W2 to W8).

1. the fence: `AttemptStarted`, not awaited; every commit awaits it
2. a turn that has its outcome already is only published
3. the graph runs, under this attempt's session
4. the outcome and its closing checkpoints, in one transaction
5. the terminal event and the `TurnResult`, both acked
6. the thread is handed to the batched finish

An attempt that cannot go on (fenced, a refused produce, a lost commit) ends without a terminal: the
thread is released, and its next owner carries on.
"""

from __future__ import annotations

import asyncio
import math
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import structlog
from aiokafka import TopicPartition

from turnstream.connectors.postgres.ledger.rows import Finish
from turnstream.graph.run.control import TurnControl
from turnstream.graph.run.input import RECURSION_LIMIT_MAX
from turnstream.schemas.errors import FencedError, TurnstreamError, UnavailableError
from turnstream.schemas.topics import Topics
from turnstream.streams.worker.beginning import answers_of, left_open, refused_answer, start_fields
from turnstream.streams.worker.claims.hold import Release
from turnstream.streams.worker.emitter import TurnEmitter
from turnstream.streams.worker.execution import Execution
from turnstream.streams.worker.outcomes import resolved_of, terminal_of
from turnstream.streams.worker.turn_records import TurnRecords

if TYPE_CHECKING:
    from turnstream.connectors.avro import Codec
    from turnstream.connectors.kafka.write.pump import Pump
    from turnstream.connectors.postgres.checkpoints.saver import FencedSaver
    from turnstream.connectors.postgres.ledger.rows import Claim
    from turnstream.graph.langgraph.catalog import Catalog
    from turnstream.schemas.records.commands import Command
    from turnstream.schemas.records.results import Outcome
    from turnstream.streams.worker.metrics import WorkerMetrics
    from turnstream.streams.worker.outlets import Outlets

log = structlog.get_logger(__name__)

LOST_PAUSE_S = 0.1
"""Seconds before a thread is released whose attempt met an unavailable log or database."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """What every attempt of a worker uses. `name` is the worker's, for people.

    `turn_timeout_s` runs from a turn's first claim on, `step_timeout_s` bounds each step,
    `recursion_limit_max` how many there are, `events_max` what a turn emits. `topics` tells
    an edge's commands from a backend's.
    """

    pump: Pump
    wire: Codec
    saver: FencedSaver
    outlets: Outlets
    catalog: Catalog
    events_topic: str
    name: str
    metrics: WorkerMetrics
    turn_timeout_s: float = math.inf
    step_timeout_s: float = math.inf
    recursion_limit_max: int = RECURSION_LIMIT_MAX
    events_max: float = math.inf
    topics: Topics = field(default_factory=Topics)


class TurnAttempt:
    """One hold on one turn: `claims.hold.Attempt`. `command` None: it is in the claim's body."""

    def __init__(self, claim: Claim, command: Command | None, bench: Bench) -> None:
        self.claim = claim
        self.control = TurnControl(str(claim.turn_id))
        self.began_at = time.monotonic()
        self._bench = bench
        self._task: asyncio.Task[object] | None = None
        self._halted = ""
        self._abandoned = False
        self._command = command or bench.outlets.command_of(claim.body)
        records = TurnRecords(
            bench.wire,
            tenant=claim.tenant,
            thread_id=claim.thread_id,
            turn_id=str(claim.turn_id),
            epoch=claim.epoch,
            actor=self._command.actor,
            traceparent=self._command.traceparent,
        )
        self._emitter = TurnEmitter(
            bench.pump,
            TopicPartition(bench.events_topic, claim.partition),
            records,
            high_n=claim.high_n,
            events_max=bench.events_max,
            on_refused=self._lost,
        )
        self._log = log.bind(
            tenant=claim.tenant,
            thread=claim.thread_id,
            turn=str(claim.turn_id),
            epoch=claim.epoch,
        )

    # -- what the worker calls -----------------------------------------------------------------

    def cancel(self, cause: str) -> None:
        """Stop the turn and keep what it emitted; a turn that has its outcome is not changed."""
        if self.control.cause is None:
            self._log.info("turn_cancel", cause=cause)
        self.control.cancel(cause)

    def drain(self) -> None:
        """Stop at the next step boundary and release the thread."""
        self.control.drain()

    def halt(self, why: str, *, silently: bool = False) -> None:
        """Stop at a token and release the thread; `silently`: drop what is unsent."""
        self._halted = self._halted or why
        if silently:
            self._emitter.kill()
        else:
            self._emitter.close()
        if self._task is not None:
            self._task.cancel()

    def abandon(self) -> None:
        """Stop and emit nothing more: the thread is another worker's."""
        self._abandoned = True
        self._emitter.kill()
        if self._task is not None:
            self._task.cancel()

    async def run(self) -> Finish | Release | None:
        """Run the attempt; returns what becomes of its thread, None where it is not ours."""
        try:
            return await self._run_once()
        finally:
            # what refers to the attempt in a circle would stay until a full garbage collection
            self._task = None
            self.control.let_go()
            self._emitter.let_go()

    async def _run_once(self) -> Finish | Release | None:
        self._task = asyncio.current_task()
        if self._halted or self._abandoned:
            return self._given_up()
        try:
            finish = await self._attempt()
        except FencedError:
            self._log.info("attempt_fenced")
            self._emitter.kill()
            return None
        except TurnstreamError as error:
            self._log.warning("attempt_lost", code=error.code, error=str(error))
            if not isinstance(error, UnavailableError):  # not log or database: the turn, or we
                return self._given_up(f"{error.code}: {error}")
            await asyncio.sleep(LOST_PAUSE_S)
            finish = None
        except asyncio.CancelledError:
            if not self._halted and not self._abandoned:
                raise
            if self._task is not None:
                self._task.uncancel()
            finish = None
        return finish or self._given_up()

    # -- the rules -----------------------------------------------------------------------------

    async def _attempt(self) -> Finish | None:
        claim, bench = self.claim, self._bench
        answers = answers_of(self._command)
        wrong = refused_answer(claim, self._command, answers)
        self._say_fence(resolved=not wrong)  # W2
        outcome = claim.outcome  # W3, before any look at cancel
        if outcome is None:
            if claim.cancel is not None:
                self.cancel(claim.cancel)
            execution = Execution(
                claim,
                self._command,
                bench,
                emitter=self._emitter,
                control=self.control,
                log=self._log,
            )
            outcome = await execution.outcome(
                answers, wrong, on_cancel=self.cancel, on_lost=self._lost
            )  # W4-W7
            if outcome is None:
                return None
        event_type, fields = terminal_of(outcome)  # W8
        n = self._emitter.conclude(event_type, **fields)
        await asyncio.gather(
            self._emitter.acked(n),
            bench.outlets.result(claim, self._command, outcome),
            *(
                bench.outlets.resolved(claim.thread_key, claim.partition, claim.turn_id, one)
                for one in left_open(claim, outcome)
            ),
        )
        self._tell_over(outcome, n)
        told = self._emitter.log
        return Finish(claim.thread_key, claim.epoch, told.last_off, told.first_off)

    def _say_fence(self, *, resolved: bool) -> None:
        claim = self.claim
        answered = claim.resolved if resolved else ()
        entry = self._bench.catalog.get(claim.graph)
        self._emitter.start(
            resolved=tuple(resolved_of(claim.thread_key, claim.turn_id, *one) for one in answered),
            **start_fields(
                claim,
                worker=self._bench.name,
                config_hash=entry.hash if entry is not None else "",
            ),
        )

    def _tell_over(self, outcome: Outcome, n: int) -> None:
        took = time.monotonic() - self.began_at
        self._bench.metrics.turn_over(outcome, took, self._emitter)
        self._log.info(
            "turn_over",
            status=outcome.status,
            code=outcome.code,
            attempt=self.claim.attempts,
            records=n,
            tokens=self._emitter.tokens_said,
            took_s=round(took, 4),
        )

    def _lost(self, error: TurnstreamError) -> None:
        """Stop at once: the attempt can no longer commit, or no longer emit."""
        self._emitter.kill(error)
        self.control.cancel("lost")

    def _given_up(self, trouble: str = "") -> Release | None:
        """Stop in the middle of the turn; None if the thread is another worker's already.

        `trouble`: what broke, if it may be the turn's fault.
        """
        if self._abandoned:
            return None
        self._log.info("turn_released", why=trouble or self._halted or "given up")
        self._emitter.close()
        return Release(trouble)
