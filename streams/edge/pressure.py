"""Whether a turn may be asked for now: what workers, Kafka and Postgres can take.

A command that is refused here was not published: the client may simply ask again. What is read is
at most `CHECK_EVERY_S` old. A command that Kafka has in spite of it waits there; nothing is lost.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Protocol

import structlog

from turnstream.schemas.errors import (
    DatabaseUnavailableError,
    KafkaUnavailableError,
    OverloadedError,
    TurnstreamError,
)

_log = structlog.get_logger(__name__)
CHECK_EVERY_S = 1.0
# a database that takes longer does not answer
CHECK_TIMEOUT_S = 3.0
# the tail's fetches are answered at least every `edge_fetch_wait_ms`; then an edge is not ready
TAIL_SILENT_MAX_S = 5.0


class Tail(Protocol):
    """What tells whether Kafka answers."""

    @property
    def lag_s(self) -> float:
        """Seconds since a broker answered."""
        ...


class OpenTurns(Protocol):
    """What tells how much the workers have before them."""

    async def open_total(self) -> int:
        """Return how many turns are not over; raises `DatabaseUnavailableError`."""
        ...

    async def workers(self) -> int:
        """Return how many workers hold a lease; raises `DatabaseUnavailableError`."""
        ...


@dataclass(slots=True)
class Pressure:
    """Refuses commands while they would only pile up; recovers by itself.

    `workers` is how many hold a lease, None where that is not known. An edge without any takes
    commands: Kafka keeps them until one comes.
    """

    tail: Tail
    ledger: OpenTurns
    open_turns_max: int
    workers: int | None = None
    _refusal: TurnstreamError | None = field(default=None)

    def check(self, *, starts: bool) -> None:
        """Raise where a command is not to be published.

        Raises `KafkaUnavailableError`, `DatabaseUnavailableError`; for one that `starts` a turn
        also `OverloadedError`.
        """
        if self.tail.lag_s > TAIL_SILENT_MAX_S:
            raise KafkaUnavailableError(f"no answer from Kafka for {self.tail.lag_s:.0f} s")
        if isinstance(self._refusal, OverloadedError) and not starts:
            return
        if self._refusal is not None:
            raise type(self._refusal)(str(self._refusal))

    @property
    def broken(self) -> str:
        """Return the code of the error for which all commands are refused, "" if there is none."""
        if self._refusal is None or isinstance(self._refusal, OverloadedError):
            return ""
        return self._refusal.code

    async def watch(self) -> None:
        """Look at the ledger once a second, until cancelled."""
        while True:
            refusal = await self._look()
            if type(refusal) is not type(self._refusal):
                code = "" if refusal is None else refusal.code
                _log.warning("commands refused" if code else "commands taken", code=code)
            self._refusal = refusal
            await asyncio.sleep(CHECK_EVERY_S)

    async def _look(self) -> TurnstreamError | None:
        try:
            async with asyncio.timeout(CHECK_TIMEOUT_S):
                open_turns = await self.ledger.open_total()
                self.workers = await self.ledger.workers()
        except TimeoutError:
            self.workers = None
            return DatabaseUnavailableError(f"no answer for {CHECK_TIMEOUT_S:g} s")
        except DatabaseUnavailableError as error:
            self.workers = None
            return error
        if open_turns >= self.open_turns_max:
            return OverloadedError(
                f"{open_turns} turns are open, {self.open_turns_max} are taken on"
            )
        return None
