"""Listens for what other processes signal through Postgres; polls stand behind every signal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from turnstream.connectors.postgres.ledger.signals import CANCEL_CHANNEL, READY_CHANNEL, listen

if TYPE_CHECKING:
    from turnstream.streams.worker.claims.roster import Roster
    from turnstream.streams.worker.intake import Intake


class WakeUps:
    """`run` is the loop; `dsn` reaches Postgres directly, past any pool."""

    def __init__(self, dsn: str, roster: Roster, intake: Intake) -> None:
        self._dsn = dsn
        self._roster = roster
        self._intake = intake

    async def run(self) -> None:
        """Listen until cancelled."""
        channels = {CANCEL_CHANNEL: self._on_cancel, READY_CHANNEL: self._on_ready}
        await listen(self._dsn, channels, on_connect=self._on_connect)

    def _on_cancel(self, thread_key: str) -> None:
        self._roster.hear_cancels([thread_key])

    def _on_ready(self, worker: str) -> None:
        if worker == str(self._roster.worker):
            self._roster.slots.wake.set()

    def _on_connect(self) -> None:
        """Look for what was signalled while no connection listened; the ledger may be another."""
        self._roster.slots.wake.set()
        self._intake.look_again()
        self._roster.hear_cancels(list(self._roster.running))
