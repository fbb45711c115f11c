"""One attempt at one turn, from the fence to its result (rules W2 to W8).

1. the fence: `AttemptStarted`, not awaited; every commit awaits it
2. a turn that has its outcome already is only published
3. the graph runs, under this attempt's session
4. the outcome and its closing checkpoints, in one transaction
5. the terminal event and the `TurnResult`, both acked
6. the thread is handed to the batched finish

Whatever makes the attempt impossible (fenced, a refused produce, a lost commit) ends it without a
terminal: the thread is released, and its next owner carries on.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec
import structlog
from aiokafka import TopicPartition

from turnstream.connectors.postgres.ledger.rows import Finish, Resolved
from turnstream.graph.run.control import TurnControl
from turnstream.graph.run.deadlines import TurnLimits
from turnstream.graph.run.ending import RunOutcome
from turnstream.graph.run.input import RECURSION_LIMIT_MAX, TurnInput
from turnstream.graph.run.questions import wrong_answer
from turnstream.graph.run.runner import end_turn, run_turn
from turnstream.schemas.errors import (
    CancelAheadError,
    FencedError,
    PoisonedError,
    TurnError,
    TurnstreamError,
    UnavailableError,
)
from turnstream.schemas.fold.fold import TIMELINE_BITS
from turnstream.schemas.records.commands import Command, ResumeTurn, StartTurn
from turnstream.schemas.records.results import Outcome
from turnstream.schemas.topics import Topics
from turnstream.schemas.unexpected import class_name, note
from turnstream.streams.worker.emitter import TurnEmitter
from turnstream.streams.worker.outcomes import resolved_of, terminal_of
from turnstream.streams.worker.turn_records import TurnRecords

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from turnstream.connectors.avro import Codec
    from turnstream.connectors.kafka.write.pump import Pump
    from turnstream.connectors.postgres.checkpoints.commits import Session
    from turnstream.connectors.postgres.checkpoints.saver import FencedSaver
    from turnstream.connectors.postgres.ledger.rows import Claim
    from turnstream.graph.langgraph.catalog import Catalog
    from turnstream.streams.worker.metrics import WorkerMetrics
    from turnstream.streams.worker.outlets import Outlets

log = structlog.get_logger(__name__)

FIRST_EPOCH = (1 << TIMELINE_BITS) + 1
"""Of the first attempt on a thread in a database that never was restored: it has no checkpoint, and
need not look for one. In a later timeline a first epoch says nothing of what came before it."""

LOST_PAUSE_S = 0.1
"""Before a thread is released whose attempt met a broken log or database: it will be met again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """What every attempt of a worker works with. `name` is the worker's, for people.

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
    """One hold on one turn. `release` gives the thread back; it is called at most once."""

    def __init__(
        self, claim: Claim, bench: Bench, release: Callable[[Claim, str], Awaitable[None]]
    ) -> None:
        self.claim = claim
        self.control = TurnControl(str(claim.turn_id))
        self.began_at = time.monotonic()
        self._bench = bench
        self._release = release
        self._task: asyncio.Task[Any] | None = None
        self._halted = ""
        self._abandoned = False
        self._command = bench.outlets.command_of(claim.body)
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
        """Stop the turn and keep what it said; a turn that has its outcome is not touched."""
        if self.control.cause is None:
            self._log.info("turn_cancel", cause=cause)
        self.control.cancel(cause)

    def drain(self) -> None:
        """Stop at the next step boundary and release the thread."""
        self.control.drain()

    def halt(self, why: str, *, silently: bool = False) -> None:
        """Stop at a token and release the thread; what was said stays said unless `silently`."""
        self._halted = self._halted or why
        if silently:
            self._emitter.kill()
        else:
            self._emitter.close()
        if self._task is not None:
            self._task.cancel()

    def abandon(self) -> None:
        """Stop without a word: the thread is somebody else's."""
        self._abandoned = True
        self._emitter.kill()
        if self._task is not None:
            self._task.cancel()

    async def run(self) -> Finish | None:
        """Run the attempt; returns what is to be finished, None where the thread is not ours."""
        try:
            return await self._run_once()
        finally:
            # what refers to the attempt in a circle would stay until a full garbage collection
            self._task = None
            self.control.let_go()
            self._emitter.let_go()

    async def _run_once(self) -> Finish | None:
        self._task = asyncio.current_task()
        if self._halted or self._abandoned:
            await self._give_up()
            return None
        try:
            finish = await self._attempt()
        except FencedError:
            self._log.info("attempt_fenced")
            self._emitter.kill()
            return None
        except TurnstreamError as error:
            self._log.warning("attempt_lost", code=error.code, error=str(error))
            if not isinstance(error, UnavailableError):  # not log or database: the turn, or we
                await self._give_up(f"{error.code}: {error}")
                return None
            await asyncio.sleep(LOST_PAUSE_S)
            finish = None
        except asyncio.CancelledError:
            if not self._halted and not self._abandoned:
                raise
            if self._task is not None:
                self._task.uncancel()
            finish = None
        if finish is None:
            await self._give_up()
        return finish

    # -- the rules -----------------------------------------------------------------------------

    async def _attempt(self) -> Finish | None:
        claim, bench = self.claim, self._bench
        wrong = self._wrong_answer()
        self._say_fence(resolved=not wrong)  # W2
        outcome = claim.outcome  # W3, before any look at cancel
        if outcome is None:
            outcome = await self._run(wrong)  # W4-W7
            if outcome is None:
                return None
        event_type, fields = terminal_of(outcome)  # W8
        n = self._emitter.conclude(event_type, **fields)
        await asyncio.gather(
            self._emitter.acked(n),
            bench.outlets.result(claim, self._command, outcome),
            *(
                bench.outlets.resolved(claim.thread_key, claim.partition, claim.turn_id, one)
                for one in _left_open(claim, outcome)
            ),
        )
        took = time.monotonic() - self.began_at
        bench.metrics.turn_over(outcome, took, self._emitter)
        self._log.info(
            "turn_over",
            status=outcome.status,
            code=outcome.code,
            attempt=claim.attempts,
            records=n,
            tokens=self._emitter.tokens_said,
            took_s=round(took, 4),
        )
        log = self._emitter.log
        return Finish(claim.thread_key, claim.epoch, log.last_off, log.first_off)

    def _wrong_answer(self) -> str:
        """Return why a resume is refused although it names the open interrupt, "" if it is not."""
        answering, command = self.claim.answering, self._command
        if self.claim.outcome is not None or answering is None:
            return ""
        if not isinstance(command, ResumeTurn):
            return ""
        return wrong_answer(json.loads(command.answers), answering.schemas)

    def _say_fence(self, *, resolved: bool) -> None:
        claim, bench = self.claim, self._bench
        entry = bench.catalog.get(claim.graph)
        self._emitter.start(
            resolved=tuple(
                resolved_of(claim.thread_key, claim.turn_id, *one) for one in claim.resolved
            )
            if resolved
            else (),
            reason=reason_of(claim),
            base=claim.base,
            keep_n=claim.keep_n,
            high_n=claim.high_n,
            keep=list(claim.keep),
            worker=bench.name,
            graph=claim.graph,
            input_sha256=hashlib.sha256(claim.body).hexdigest(),
            source_topic=claim.src_topic,
            source_partition=claim.src_part,
            source_offset=claim.src_off,
            config_hash=entry.hash if entry is not None else "",
        )

    async def _run(self, wrong: str) -> Outcome | None:
        claim, bench = self.claim, self._bench
        session = bench.saver.session(
            thread_key=claim.thread_key,
            turn_id=claim.turn_id,
            epoch=claim.epoch,
            origin=claim.origin,
            log=self._emitter,
            keep_n=claim.keep_n,
            high_n=claim.high_n,
            keep=claim.keep,
            fresh=claim.epoch == FIRST_EPOCH,
            on_cancel=self.cancel,
            on_lost=self._lost,
        )
        if claim.cancel is not None:
            self.cancel(claim.cancel)
        try:
            with session.bound():
                if wrong and claim.answering is not None:
                    refused = Outcome(status="rejected", code="invalid_answer", message=wrong)
                    return await self._commit(
                        session, RunOutcome(outcome=refused), reopen=claim.answering.stored
                    )
                return await self._commit(session, await self._ran(session))
        finally:
            session.let_go()

    async def _ran(self, session: Session) -> RunOutcome:
        claim, bench = self.claim, self._bench
        entry = bench.catalog.get(claim.graph)
        if entry is None:
            # admitted by a worker that has the graph; this one was started without it
            return RunOutcome(outcome=_failed("unknown_graph", f"no graph {claim.graph!r} here"))
        parked = claim.parked and claim.cancel is None
        if parked:
            self._log.error("turn_parked", attempts=claim.attempts - 1, reason=claim.parked)
        poisoned = _failed(PoisonedError.code, claim.parked)
        try:
            turn = turn_input(claim, self._command, bench.topics)
            if parked:
                return await end_turn(
                    entry, turn, self._emitter, bench.saver, poisoned, commits=session
                )
            return await run_turn(
                entry,
                turn,
                self._emitter,
                bench.saver,
                self.control,
                commits=session,
                limits=TurnLimits(
                    turn_left_s=bench.turn_timeout_s - claim.age_s,
                    turn_timeout_s=bench.turn_timeout_s,
                    step_timeout_s=bench.step_timeout_s,
                    recursion_limit_max=bench.recursion_limit_max,
                ),
            )
        except TurnstreamError:
            raise
        except Exception as error:  # noqa: BLE001
            # decided here so that a mistake of ours ends one turn, and ends it visibly
            error_id = note("turn", error, turn=str(claim.turn_id), thread=claim.thread_id)
            broke = _failed("internal", f"{class_name(error)} (error id {error_id})")
            return RunOutcome(outcome=poisoned if parked else broke)

    async def _commit(
        self, session: Session, ran: RunOutcome, *, reopen: bytes | None = None
    ) -> Outcome | None:
        """Store what the run came to; returns what the ledger has, None for a run that drained."""
        if ran.outcome is None:
            return None
        decided = self._decided(ran.outcome)
        try:
            await self._bench.saver.commit_outcome(session, decided, ran.closing, reopen=reopen)
        except CancelAheadError as ahead:
            self._log.info("cancel_ahead", cause=ahead.cause, instead_of=decided.status)
            if ran.instead is None:  # it had not begun to run
                late = RunOutcome(outcome=Outcome(status="cancelled", code=ahead.cause))
                return await self._commit(session, late)
            return await self._commit(session, await ran.instead(ahead.cause))
        except TurnError as error:
            if decided.status == "failed" and not ran.closing:
                raise
            self._log.warning("closing_not_stored", code=error.code, error=str(error))
            failed = RunOutcome(outcome=_failed(error.code, str(error)), instead=ran.instead)
            return await self._commit(session, failed)
        return decided

    def _decided(self, outcome: Outcome) -> Outcome:
        """Note when and in which attempt it was decided, so that repeated results are equal."""
        at = time.time_ns() // 1000
        return msgspec.structs.replace(outcome, attempts=self.claim.attempts, at=at)

    def _lost(self, error: TurnstreamError) -> None:
        """Stop at once: nothing can be committed, or nothing said, any more."""
        self._emitter.kill(error)
        self.control.cancel("lost")

    async def _give_up(self, trouble: str = "") -> None:
        """Release the thread in the middle of its turn; whoever is next carries on.

        `trouble`: what broke, if it may be the turn's fault; the attempt then counts.
        """
        if not self._abandoned:
            self._log.info("turn_released", why=trouble or self._halted or "given up")
            self._emitter.close()
            await self._release(self.claim, trouble)


def turn_input(claim: Claim, command: Command, topics: Topics) -> TurnInput:
    """Return the turn as its graph sees it.

    An edge has put who asks into the config; on a tenant's own topic a record cannot say so.
    """
    if not isinstance(command, (StartTurn, ResumeTurn)):
        raise TurnstreamError(f"a {type(command).__name__} cannot be run")
    return TurnInput(
        turn_id=str(claim.turn_id),
        thread_key=claim.thread_key,
        kind=claim.kind,
        text=command.text if isinstance(command, StartTurn) else "",
        input=json.loads(command.input)
        if isinstance(command, StartTurn) and command.input
        else None,
        answers=json.loads(command.answers) if isinstance(command, ResumeTurn) else {},
        config=json.loads(command.config) if command.config else {},
        metadata=json.loads(command.metadata) if command.metadata else {},
        again=claim.started_again,
        carried=claim.carried,
        graph=claim.graph,
        askers=claim.answering.askers if claim.answering is not None else {},
        identity={"tenant_id": claim.tenant} if topics.tenant_of(claim.src_topic) else None,
    )


def reason_of(claim: Claim) -> str:
    """Return why the attempt begins (W2).

    An outcome that the ledger decided has no attempt, and `base` may be one that ended otherwise.
    """
    if claim.outcome is not None and claim.outcome.attempts:
        return "decided"
    return "again" if claim.started_again else "first"


def _left_open(claim: Claim, outcome: Outcome) -> list[Resolved]:
    """Return the questions that a resume did not answer and that nobody can answer any more."""
    if claim.answering is None or outcome.status in ("interrupted", "rejected"):
        return []
    answered = {one.interrupt_id for one in claim.resolved}
    rev = max((one.rev for one in claim.resolved), default=0)
    left = [one for one in claim.answering.ids if one not in answered]
    return [Resolved(one, rev + k, "superseded") for k, one in enumerate(left, 1)]


def _failed(code: str, message: str) -> Outcome:
    return Outcome(status="failed", code=code, message=message[:2000])
