"""Publishes the ends of turns and questions that ended without an attempt.

The worker that decided an end publishes it at once. What fails is left to a sweep, by any worker.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from turnstream.schemas.errors import TurnstreamError
from turnstream.schemas.unexpected import note

if TYPE_CHECKING:
    from turnstream.connectors.postgres.ledger.ledger import Ledger
    from turnstream.connectors.postgres.ledger.rows import Ended, ExpiredInterrupt
    from turnstream.streams.worker.outlets import Outlets

log = structlog.get_logger(__name__)

PUBLISHING_MAX = 64
"""Calls of `publish` at once; further ends wait for a sweep."""


class Unclaimed:
    """Publishes ends of unclaimed turns and of questions that expired."""

    def __init__(self, ledger: Ledger, outlets: Outlets) -> None:
        self._ledger = ledger
        self._outlets = outlets
        self._publishing = 0

    async def publish(self, turns: list[Ended]) -> None:
        """Publish ends and close their turns; what fails is left to the next sweep."""
        if self._publishing >= PUBLISHING_MAX:
            return
        self._publishing += 1
        try:
            await self._outlets.ended(turns, self._ledger)
        except TurnstreamError as error:
            log.warning("ended_left_to_sweep", turns=len(turns), error=str(error))
        except Exception as error:  # noqa: BLE001  the turns of one call must not end the worker
            note("unclaimed_ends", error, turns=len(turns))
        finally:
            self._publishing -= 1

    async def tell_expired(self, interrupts: list[ExpiredInterrupt]) -> None:
        """Publish expired interrupts; what fails is left to the next sweep."""
        try:
            await self._outlets.expired(interrupts, self._ledger)
        except TurnstreamError as error:
            log.warning("expired_left_to_sweep", interrupts=len(interrupts), error=str(error))
        except Exception as error:  # noqa: BLE001  the questions of one call must not end the worker
            note("expired_interrupts", error, interrupts=len(interrupts))
