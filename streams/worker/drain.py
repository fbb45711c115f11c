"""Hand-over: a stopping worker lets turns run, then stops them at a step, then at a token."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from turnstream.streams.worker.claims.roster import Roster
    from turnstream.streams.worker.intake import Intake

log = structlog.get_logger(__name__)

FREE_SHARE = 0.5
"""Share of the budget in which turns go on; in the rest they stop at their next step's end."""

HALT_TIMEOUT_S = 8.0
"""Seconds for attempts to end after a stop at a token; code in threads cannot be stopped."""


async def hand_over(intake: Intake, roster: Roster, *, budget_s: float) -> None:
    """Claim nothing more, end or release what runs, and return when nothing does.

    Releases wake a peer, which carries on at the last commit.
    """
    roster.close()
    intake.stop()
    log.info("drain_begins", turns=len(roster.running), budget_s=budget_s)
    if not await _emptied(roster, budget_s * FREE_SHARE):
        for attempt in list(roster.running.values()):
            attempt.drain()
        if not await _emptied(roster, budget_s * (1 - FREE_SHARE)):
            log.info("drain_at_token", turns=len(roster.running))
            for attempt in list(roster.running.values()):
                attempt.halt("drained")
            await _emptied(roster, HALT_TIMEOUT_S)
    log.info("drain_ends", left=len(roster.running))


async def _emptied(roster: Roster, timeout_s: float) -> bool:
    try:
        async with asyncio.timeout(timeout_s):
            await roster.slots.emptied.wait()
    except TimeoutError:
        return not roster.running
    return True
