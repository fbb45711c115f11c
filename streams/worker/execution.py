"""Runs an attempt's graph and stores what it came to (rules W4 to W7)."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import msgspec

from turnstream.graph.run.deadlines import TurnLimits
from turnstream.graph.run.ending import RunOutcome
from turnstream.graph.run.runner import end_turn, run_turn
from turnstream.schemas.errors import (
    CancelAheadError,
    PoisonedError,
    TurnError,
    TurnstreamError,
)
from turnstream.schemas.fold.fold import TIMELINE_BITS
from turnstream.schemas.records.results import Outcome
from turnstream.schemas.unexpected import class_name, note
from turnstream.streams.worker.beginning import turn_input

if TYPE_CHECKING:
    from collections.abc import Callable

    import structlog

    from turnstream.connectors.postgres.checkpoints.commits import Session
    from turnstream.connectors.postgres.ledger.rows import Claim
    from turnstream.graph.run.control import TurnControl
    from turnstream.schemas.records.commands import Command
    from turnstream.streams.worker.attempt import Bench
    from turnstream.streams.worker.emitter import TurnEmitter

FIRST_EPOCH = (1 << TIMELINE_BITS) + 1
"""Of the first attempt on a thread in a database that never was restored: it has no checkpoint, and
need not look for one. In a later timeline a first epoch says nothing of what came before it."""


class Execution:
    """One run of one claim's graph. `outcome` runs it; `control` stops it."""

    def __init__(
        self,
        claim: Claim,
        command: Command,
        bench: Bench,
        *,
        emitter: TurnEmitter,
        control: TurnControl,
        log: structlog.stdlib.BoundLogger,
    ) -> None:
        self._claim = claim
        self._command = command
        self._bench = bench
        self._emitter = emitter
        self._control = control
        self._log = log

    async def outcome(
        self,
        answers: dict[str, object],
        wrong: str,
        *,
        on_cancel: Callable[[str], None],
        on_lost: Callable[[TurnstreamError], None],
    ) -> Outcome | None:
        """Run the turn and return what the ledger has stored; None for a run that drained.

        `answers`: what a resume answers, by interrupt id. `wrong`: why the turn is rejected without
        being run, "" where it is run. `on_cancel` is told of a cancel that a commit met, `on_lost`
        that nothing more can be committed.
        """
        claim = self._claim
        session = self._bench.saver.session(
            thread_key=claim.thread_key,
            turn_id=claim.turn_id,
            epoch=claim.epoch,
            origin=claim.origin,
            log=self._emitter,
            keep_n=claim.keep_n,
            high_n=claim.high_n,
            keep=claim.keep,
            fresh=claim.epoch == FIRST_EPOCH,
            on_cancel=on_cancel,
            on_lost=on_lost,
        )
        try:
            with session.bound():
                if wrong and claim.answering is not None:
                    refused = Outcome(status="rejected", code="invalid_answer", message=wrong)
                    return await self._commit(
                        session, RunOutcome(outcome=refused), reopen=claim.answering.stored
                    )
                return await self._commit(session, await self._ran(session, answers))
        finally:
            session.let_go()

    async def _ran(self, session: Session, answers: dict[str, object]) -> RunOutcome:
        claim, bench = self._claim, self._bench
        entry = bench.catalog.get(claim.graph)
        if entry is None:
            # admitted by a worker that has the graph; this one was started without it
            return RunOutcome(outcome=_failed("unknown_graph", f"no graph {claim.graph!r} here"))
        parked = claim.parked and claim.cancel is None
        if parked:
            self._log.error("turn_parked", attempts=claim.attempts - 1, reason=claim.parked)
        poisoned = _failed(PoisonedError.code, claim.parked)
        try:
            turn = turn_input(claim, self._command, answers, bench.topics)
            if parked:
                return await end_turn(
                    entry, turn, self._emitter, bench.saver, poisoned, commits=session
                )
            return await run_turn(
                entry,
                turn,
                self._emitter,
                bench.saver,
                self._control,
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
            # decided here, so that an error of ours fails this turn and no other
            error_id = note("turn", error, turn=str(claim.turn_id), thread=claim.thread_id)
            broke = _failed("internal", f"{class_name(error)} (error id {error_id})")
            return RunOutcome(outcome=poisoned if parked else broke)

    async def _commit(
        self, session: Session, ran: RunOutcome, *, reopen: bytes | None = None
    ) -> Outcome | None:
        """Store a run's outcome and return what the ledger has; None for a run that drained."""
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
        return msgspec.structs.replace(outcome, attempts=self._claim.attempts, at=at)


def _failed(code: str, message: str) -> Outcome:
    return Outcome(status="failed", code=code, message=message[:2000])
