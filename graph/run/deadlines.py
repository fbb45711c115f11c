"""How long a turn and its steps may take: one coarse check a turn, no timer for tokens or steps."""

from __future__ import annotations

import asyncio
import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from turnstream.graph.run.input import RECURSION_LIMIT_MAX
from turnstream.schemas.errors import StepTimeoutError, TurnTimeoutError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from turnstream.schemas.errors import TurnError

LOOK_AGAIN_S = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnLimits:
    """Bounds of a turn.

    The rest of the turn may take `turn_left_s`; `turn_timeout_s` is only named in the error. A step
    of the root graph, with all that is nested in it, may take `step_timeout_s`. A turn may have
    `recursion_limit_max` steps, whatever its config or graph allow.
    """

    turn_left_s: float = math.inf
    turn_timeout_s: float = math.inf
    step_timeout_s: float = math.inf
    recursion_limit_max: int = RECURSION_LIMIT_MAX


async def overrun(
    waiting: Collection[asyncio.Future[Any]], limits: TurnLimits, stepped_at: Callable[[], float]
) -> TurnError | None:
    """Wait until one of these is done, and return None; or until a bound is passed: its error.

    `stepped_at` returns the time (`time.monotonic`) when the running step began.
    """
    ends = time.monotonic() + limits.turn_left_s
    while True:
        left_s = min(ends, stepped_at() + limits.step_timeout_s) - time.monotonic()
        done, _ = await asyncio.wait(
            waiting,
            timeout=min(max(left_s, 0.0), LOOK_AGAIN_S),
            return_when=asyncio.FIRST_COMPLETED,
        )
        if done:
            return None
        now = time.monotonic()
        if now >= ends:
            return TurnTimeoutError(f"the turn took longer than {limits.turn_timeout_s:g} s")
        if now >= stepped_at() + limits.step_timeout_s:
            return StepTimeoutError(f"a step took longer than {limits.step_timeout_s:g} s")
