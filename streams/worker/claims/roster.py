"""The attempts that run here: each is started, seen through to its end, and its thread given back.

Reads and writes the ledger (`release`, `excuse`, `cancels`). Every claim that the ledger gives to
this worker passes through `begin`; what it may have claimed without hearing of it is found by
`Reclaim`.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

import structlog

from turnstream.connectors.postgres.ledger.rows import SUSPECT_ATTEMPT, Finish
from turnstream.connectors.postgres.ledger.signals import CANCEL_CHANNEL
from turnstream.schemas.errors import DatabaseUnavailableError, TurnstreamError
from turnstream.schemas.unexpected import class_name, note
from turnstream.streams.worker.claims.finishes import Finishes
from turnstream.streams.worker.claims.hold import Release

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
    from uuid import UUID

    from turnstream.connectors.postgres.ledger.ledger import Ledger
    from turnstream.connectors.postgres.ledger.rows import Admitted, Claim
    from turnstream.connectors.postgres.ledger.signals import Signals
    from turnstream.schemas.records.commands import Command
    from turnstream.streams.worker.claims.hold import Attempt
    from turnstream.streams.worker.claims.slots import Slots
    from turnstream.streams.worker.unclaimed import Unclaimed
    from turnstream.streams.worker.watch.standing import Standing

log = structlog.get_logger(__name__)

GIVE_BACK_S = 1.0
NOTHING_DECODED: Mapping[bytes, Command] = MappingProxyType({})


@dataclass(slots=True)
class Counts:
    """What a roster has done since it was made."""

    claimed: int = 0
    released: int = 0
    broken: int = 0


class Roster:
    """Runs what this worker claimed. `run` is its loop; attempts are tasks inside it.

    `attempt` makes one from a claim and its command, None where that is yet to be decoded.
    `trouble`: why every release counts as an attempt, because one of these turns may be at fault.
    """

    def __init__(
        self,
        standing: Standing,
        ledger: Ledger,
        signals: Signals,
        unclaimed: Unclaimed,
        *,
        slots: Slots,
        attempt: Callable[[Claim, Command | None], Attempt],
    ) -> None:
        self.slots = slots
        self.counts = Counts()
        self.finishes = Finishes(standing, ledger, slots)
        self.trouble = ""
        self._standing = standing
        self._ledger = ledger
        self._signals = signals
        self._unclaimed = unclaimed
        self._attempt = attempt
        self._tasks: asyncio.TaskGroup | None = None

    @property
    def worker(self) -> UUID:
        """The id under which the ledger knows this worker."""
        return self._standing.worker

    @property
    def running(self) -> dict[str, Attempt]:
        """The attempts that run here, by thread key."""
        return self.slots.running

    async def run(self) -> None:
        """Finish attempts in batches and start what each batch claimed, for ever."""
        async with asyncio.TaskGroup() as self._tasks:
            while True:
                claims, left = await self.finishes.next_batch()
                self.begin(claims)
                if left:  # what these threads do next may be for another worker
                    self._spawn(self._signals.wake_peer(self.worker))

    def _spawn(self, work: Coroutine[object, object, None]) -> None:
        if self._tasks is None:
            raise RuntimeError("the roster does not run")
        self._tasks.create_task(work)

    # -- from a claim to its end -----------------------------------------------------------------

    def begin(
        self, claims: Iterable[Claim], decoded: Mapping[bytes, Command] = NOTHING_DECODED
    ) -> None:
        """Start an attempt for each claim; `decoded`: commands by the bodies of their turns."""
        for claim in claims:
            try:
                attempt = self._attempt(claim, decoded.get(claim.body))
            except TurnstreamError as error:
                # a newer version admitted it, so a newer worker is to run it
                log.error("claim_not_understood", turn=str(claim.turn_id), error=str(error))  # noqa: TRY400
                self._spawn(self._give_back(claim))
                continue
            except Exception as error:  # noqa: BLE001  one claim must not cost the others theirs
                error_id = note("claim", error, turn=str(claim.turn_id))
                self._spawn(self._release(claim, f"{type(error).__name__} (error {error_id})"))
                continue
            stale = self.running.get(claim.thread_key)
            if stale is not None:
                stale.abandon()  # the ledger gave the thread anew, so that hold is over
            self.slots.take(attempt)
            self.counts.claimed += 1
            if claim.attempts >= SUSPECT_ATTEMPT:
                log.warning(
                    "turn_suspect",
                    turn=str(claim.turn_id),
                    attempt=claim.attempts,
                    parked=claim.parked,
                )
            self._spawn(self._see_through(attempt))

    async def take(
        self, admitted: Admitted, decoded: Mapping[bytes, Command] = NOTHING_DECODED
    ) -> None:
        """Run what was claimed at admission, publish what ended there, signal other workers."""
        self.begin(admitted.claims, decoded)
        if admitted.ended:
            self._spawn(self._unclaimed.publish(list(admitted.ended)))
        if admitted.woke:
            self.slots.wake.set()
            self._spawn(self._signals.wake_peer(self.worker))
        for thread_key in admitted.cancelled:
            if thread_key in self.running:
                self._spawn(self.look_for_cancels([thread_key]))
            else:
                self._spawn(self._signals.wake(CANCEL_CHANNEL, thread_key))

    async def _see_through(self, attempt: Attempt) -> None:
        end: Finish | Release | None = None
        try:
            end = await self._end_of(attempt)
            if isinstance(end, Release):
                await self._release(attempt.claim, end.trouble)
        finally:
            if not isinstance(end, Finish):
                self.counts.released += 1
                self.slots.leave(attempt)
        if isinstance(end, Finish):
            await self.finishes.put(end)

    async def _end_of(self, attempt: Attempt) -> Finish | Release | None:
        try:
            return await attempt.run()
        except Exception as error:  # noqa: BLE001
            # decided here: a mistake in one attempt ends neither the worker nor its neighbours
            claim = attempt.claim
            turn, epoch = str(claim.turn_id), claim.epoch
            error_id = note("attempt", error, turn=turn, epoch=epoch, attempt=claim.attempts)
            self.counts.broken += 1
            # clients may see it as the reason why the turn was parked
            return Release(f"{class_name(error)} (error id {error_id})")

    async def _give_back(self, claim: Claim) -> None:
        await asyncio.sleep(GIVE_BACK_S)
        await self._release(claim)

    async def _release(self, claim: Claim, trouble: str = "") -> None:
        """Give an attempt's thread back and wake a peer for it."""
        trouble = trouble or self.trouble
        try:
            waiting = await self._ledger.release([(claim.thread_key, claim.epoch)], trouble)
        except TurnstreamError as error:
            log.warning("release_unknown", turn=str(claim.turn_id), error=str(error))
            self.slots.doubt()
            return
        if waiting and not trouble:
            self.slots.wake.set()
            await self._signals.wake_peer(self.worker)

    # -- what ends attempts ----------------------------------------------------------------------

    def close(self) -> None:
        """Claim nothing more, for good, and let the ledger give this worker nothing."""
        self.slots.close()
        self._spawn(self._stop_taking())

    async def _stop_taking(self) -> None:
        with suppress(DatabaseUnavailableError):
            await self._ledger.stop_taking(self.worker)

    def abandon_all(self, *, excused: bool) -> None:
        """Stop every attempt, because the lease was lost; `excused`: none of them counts."""
        attempts = list(self.running.values())
        for attempt in attempts:
            attempt.abandon()
        if excused:
            self._spawn(self._excuse([attempt.claim for attempt in attempts]))

    async def _excuse(self, claims: Sequence[Claim]) -> None:
        try:
            await self._ledger.excuse([(c.thread_key, c.seq, c.epoch) for c in claims])
        except TurnstreamError as error:
            log.warning("excuse_lost", turns=len(claims), error=str(error))

    def hear_cancels(self, thread_keys: Iterable[str]) -> None:
        """Look soon whether turns on these threads are to stop."""
        if here := [key for key in thread_keys if key in self.running]:
            self._spawn(self.look_for_cancels(here))

    async def look_for_cancels(self, thread_keys: Iterable[str]) -> None:
        """See in the ledger which of the turns that run on these threads are to stop."""
        here = [key for key in thread_keys if key in self.running]
        if not here:
            return
        try:
            found = await self._ledger.cancels(here)
        except DatabaseUnavailableError:
            return  # the next look, or the turn's next commit, finds them
        for key, epoch, cause in found:
            attempt = self.running.get(key)
            if attempt is not None and attempt.claim.epoch == epoch:
                attempt.cancel(cause)
