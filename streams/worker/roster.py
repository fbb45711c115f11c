"""Who runs what: a worker's slots, its attempts, and the batched finish behind them.

Reads and writes the ledger (`finish`, `release`, `reclaim`). Every claim that the ledger gives to
this worker passes through `begin`; what may have been claimed without this process hearing of it
is found by `reconcile`.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import structlog

from turnstream.connectors.postgres.ledger.rows import SUSPECT_ATTEMPT
from turnstream.connectors.postgres.ledger.signals import CANCEL_CHANNEL
from turnstream.schemas.errors import DatabaseUnavailableError, TurnstreamError
from turnstream.schemas.unexpected import class_name, note

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Sequence
    from typing import Any
    from uuid import UUID

    from turnstream.connectors.postgres.ledger.ledger import Ledger
    from turnstream.connectors.postgres.ledger.rows import (
        Admitted,
        Claim,
        Finish,
    )
    from turnstream.connectors.postgres.ledger.signals import Signals
    from turnstream.streams.worker.unclaimed import Unclaimed

log = structlog.get_logger(__name__)

FINISH_BATCH_MAX = 64
RECLAIM_BATCH_MAX = 32
RETRY_S = 0.2
GIVE_BACK_S = 1.0


class Attempt(Protocol):
    """One hold on one turn, as the roster sees it."""

    claim: Claim

    async def run(self) -> Finish | None:
        """Run the turn; None if the thread is not to be finished: released, fenced, handed over."""
        ...

    def cancel(self, cause: str) -> None:
        """Stop the turn and keep its text."""
        ...

    def drain(self) -> None:
        """Stop at the next step boundary and release the thread."""
        ...

    def abandon(self) -> None:
        """Stop without a word: the thread is not this worker's any more."""
        ...

    def halt(self, why: str, *, silently: bool = False) -> None:
        """Stop at once, at a token, and release the thread; `silently`: drop what is unsent."""
        ...


@dataclass(slots=True)
class Counts:
    """What a roster has done since it was made."""

    claimed: int = 0
    finished: int = 0
    released: int = 0
    broken: int = 0


class Roster:
    """The turns that run here. `turns_max` bounds them, reservations of claims under way included.

    `limit` returns how many of these may run now; turns above it go on, but none is claimed.
    `spawn` starts a task that lives as long as the worker. `accepting` off: nothing is claimed.
    `trouble`: why every release counts as an attempt, because one of these turns may be at fault.
    """

    def __init__(
        self,
        worker: UUID,
        ledger: Ledger,
        unclaimed: Unclaimed,
        signals: Signals,
        *,
        turns_max: int,
        limit: Callable[[], int],
        attempt: Callable[[Claim], Attempt],
        spawn: Callable[[Coroutine[Any, Any, None]], object],
    ) -> None:
        self.worker = worker
        self.running: dict[str, Attempt] = {}
        self.counts = Counts()
        self.accepting = True
        self.trouble = ""
        self._closed = False
        self.wake = asyncio.Event()
        self.emptied = asyncio.Event()
        self.emptied.set()
        self._ledger = ledger
        self._unclaimed = unclaimed
        self._signals = signals
        self._limit = limit
        self._attempt = attempt
        self._spawn = spawn
        self._reserved = 0
        self._claiming = 0
        self._doubt = False
        self._starved = False
        self._finishes: asyncio.Queue[Finish] = asyncio.Queue(maxsize=2 * turns_max)

    # -- slots -----------------------------------------------------------------------------------

    @property
    def suspects(self) -> int:
        """How many turns run here whose attempts ended with their worker, or broke, before."""
        return sum(a.claim.attempts >= SUSPECT_ATTEMPT for a in self.running.values())

    @property
    def free(self) -> int:
        """How many more turns can be claimed now."""
        if not self._claims_now():
            return 0
        return max(0, self._limit() - len(self.running) - self._reserved)

    def _claims_now(self) -> bool:
        return self.accepting and not self._closed and not self._doubt

    def close(self) -> None:
        """Claim nothing more, for good."""
        self._closed = True

    def reserve(self, wanted: int) -> int:
        """Keep up to so many slots for a claiming call; returns how many. `unreserve` them."""
        room = min(wanted, self.free)
        self._reserved += room
        self._claiming += 1
        return room

    def unreserve(self, room: int) -> None:
        """Give the slots of a claiming call back; what it claimed is handed to `begin` next."""
        self._reserved -= room
        self._claiming -= 1

    def doubt(self) -> None:
        """Note that the ledger may have given this worker threads without its hearing of it."""
        self._doubt = True
        self.wake.set()

    def begin(self, claims: Iterable[Claim]) -> None:
        """Start an attempt for each claim."""
        for claim in claims:
            try:
                attempt = self._attempt(claim)
            except TurnstreamError as error:
                # a newer version admitted it: one of those is to run it
                log.error("claim_not_understood", turn=str(claim.turn_id), error=str(error))  # noqa: TRY400
                self._spawn(self._give_back(claim))
                continue
            except Exception as error:  # noqa: BLE001  one claim must not cost the others theirs
                error_id = note("claim", error, turn=str(claim.turn_id))
                self._spawn(self.release(claim, f"{type(error).__name__} (error {error_id})"))
                continue
            stale = self.running.get(claim.thread_key)
            if stale is not None:
                stale.abandon()  # the ledger gave the thread anew, so that hold is over
            self.running[claim.thread_key] = attempt
            self.emptied.clear()
            self.counts.claimed += 1
            if claim.attempts >= SUSPECT_ATTEMPT:
                log.warning(
                    "turn_suspect",
                    turn=str(claim.turn_id),
                    attempt=claim.attempts,
                    parked=claim.parked,
                )
            self._spawn(self._see_through(attempt))

    async def take(self, admitted: Admitted) -> None:
        """Run what was claimed at admission, publish what ended there, wake who is meant."""
        self.begin(admitted.claims)
        if admitted.ended:
            self._spawn(self._unclaimed.publish(list(admitted.ended)))
        if admitted.woke:
            self.wake.set()
            self._spawn(self._signals.wake_peer(self.worker))
        for thread_key in admitted.cancelled:
            if thread_key in self.running:
                self._spawn(self.look_for_cancels([thread_key]))
            else:
                self._spawn(self._signals.wake(CANCEL_CHANNEL, thread_key))

    # -- attempts --------------------------------------------------------------------------------

    async def _see_through(self, attempt: Attempt) -> None:
        claim = attempt.claim
        finish: Finish | None = None
        try:
            finish = await attempt.run()
        except Exception as error:  # noqa: BLE001
            # decided here: a mistake in one attempt ends neither the worker nor its neighbours
            turn, epoch = str(claim.turn_id), claim.epoch
            error_id = note("attempt", error, turn=turn, epoch=epoch, attempt=claim.attempts)
            self.counts.broken += 1
            # clients may see it as the reason why the turn was parked
            await self.release(claim, f"{class_name(error)} (error id {error_id})")
        finally:
            if finish is None:
                self.counts.released += 1
                self._leave(attempt)
        if finish is not None:
            await self._finishes.put(finish)

    def _leave(self, attempt: Attempt) -> None:
        if self.running.get(attempt.claim.thread_key) is attempt:
            del self.running[attempt.claim.thread_key]
        if not self.running:
            self.emptied.set()
        if self._starved or attempt.claim.attempts >= SUSPECT_ATTEMPT:
            self.wake.set()  # a slot is free: of the worker, or for a suspect

    async def run_finishes(self) -> None:
        """Finish attempts in batches, for ever; each batch claims its threads' next turns."""
        while True:
            batch = [await self._finishes.get()]
            while len(batch) < FINISH_BATCH_MAX and not self._finishes.empty():
                batch.append(self._finishes.get_nowait())
            # each of these attempts gives its own slot to the next turn of its thread
            over = len(self.running) + self._reserved - self._limit()
            room = max(0, len(batch) - max(0, over)) if self._claims_now() else 0
            self._claiming += 1
            claims: list[Claim] = []
            try:
                claims = await self._finish(batch, room)
            finally:
                self._claiming -= 1
            self.counts.finished += len(batch)
            for item in batch:
                attempt = self.running.get(item.thread_key)
                if attempt is not None and attempt.claim.epoch == item.epoch:
                    self._leave(attempt)
            self.begin(claims)
            if room < len(batch):  # what these threads do next may be for another worker
                self._starved = True
                self._spawn(self._signals.wake_peer(self.worker))

    async def _finish(self, batch: list[Finish], room: int) -> list[Claim]:
        while True:
            try:
                return await self._ledger.finish(self.worker, room, batch)
            except DatabaseUnavailableError as error:
                # it may have been written, and with it claims that nobody here knows of
                log.warning("finish_unknown", turns=len(batch), error=str(error))
                if room:
                    self.doubt()
                room = 0
                await asyncio.sleep(RETRY_S)
            except Exception as error:  # noqa: BLE001  one turn must not keep others from their end
                note("finish", error, turns=len(batch), thread=batch[0].thread_key)
                self.doubt()  # what was claimed is given back, and what is not closed comes again
                if len(batch) > 1:
                    for item in batch:
                        await self._finish([item], 0)
                return []

    async def _give_back(self, claim: Claim) -> None:
        await asyncio.sleep(GIVE_BACK_S)
        await self.release(claim)

    async def release(self, claim: Claim, trouble: str = "") -> None:
        """Give an attempt's thread back and wake a peer for it.

        With a `trouble` the attempt counts, and the thread waits for a while.
        """
        trouble = trouble or self.trouble
        try:
            waiting = await self._ledger.release([(claim.thread_key, claim.epoch)], trouble)
        except TurnstreamError as error:
            log.warning("release_unknown", turn=str(claim.turn_id), error=str(error))
            self.doubt()
            return
        if waiting and not trouble:
            self.wake.set()
            await self._signals.wake_peer(self.worker)

    async def excuse(self, claims: Sequence[Claim]) -> None:
        """Count these attempts no more: they lost their threads through no fault of their turns."""
        try:
            await self._ledger.excuse([(c.thread_key, c.seq, c.epoch) for c in claims])
        except TurnstreamError as error:
            log.warning("excuse_lost", turns=len(claims), error=str(error))

    # -- the slow path ---------------------------------------------------------------------------

    async def reclaim(self) -> None:
        """Claim what waits in `ready`, as far as there is room."""
        if self._doubt:
            await self.reconcile()
        while (room := self.reserve(RECLAIM_BATCH_MAX)) > 0:
            claims: list[Claim] = []
            try:
                claims = await self._ledger.reclaim(self.worker, room)
            except DatabaseUnavailableError:
                self.doubt()
                raise
            finally:
                self.unreserve(room)
            self.begin(claims)
            if len(claims) < room:
                self._starved = False
                return
        self.unreserve(0)
        self._starved = True

    async def reconcile(self) -> None:
        """Release threads that the ledger says are this worker's and that nothing here runs.

        Waits until no claiming call is under way; none begins while there is doubt.
        """
        if self._claiming:
            await asyncio.sleep(RETRY_S)
            return
        owned = await self._ledger.owned(self.worker)
        orphans = [
            (key, epoch)
            for key, epoch in owned
            if key not in self.running or self.running[key].claim.epoch != epoch
        ]
        await self._ledger.release(orphans)
        if orphans:
            log.warning("orphans_released", threads=len(orphans))
        self._doubt = False
        self.wake.set()

    async def look_for_cancels(self, thread_keys: Iterable[str]) -> None:
        """See in the ledger which of the turns that run on these threads are to stop."""
        here = [key for key in thread_keys if key in self.running]
        if not here:
            return
        try:
            found = await self._ledger.cancels(here)
        except DatabaseUnavailableError:
            return  # the next look, or its next commit, is told
        for key, epoch, cause in found:
            attempt = self.running.get(key)
            if attempt is not None and attempt.claim.epoch == epoch:
                attempt.cancel(cause)
