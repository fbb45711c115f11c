"""Ends a worker that holds too much memory, before the kernel ends it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from turnstream.streams.process.memory import resident_bytes
from turnstream.streams.process.pace import BEAT_EVERY_S

if TYPE_CHECKING:
    from turnstream.streams.worker.claims.roster import Roster
    from turnstream.streams.worker.watch.stopping import Stopping

log = structlog.get_logger(__name__)


class MemoryGuard:
    """Stops the worker above `limit_bytes`, so that a new process takes its place. 0: no limit."""

    def __init__(self, limit_bytes: int, stopping: Stopping, roster: Roster) -> None:
        self._limit_bytes = limit_bytes
        self._stopping = stopping
        self._roster = roster

    async def run(self) -> None:
        """Look until the limit is exceeded once; returns at once without a limit."""
        limit = self._limit_bytes
        while limit:
            held = resident_bytes()
            if held > limit:
                turns = len(self._roster.running)
                log.error("memory_exceeded", bytes=held, limit=limit, turns=turns)
                self._roster.trouble = (
                    f"its worker held {held >> 20} MiB, {limit >> 20} are allowed"
                )
                self._stopping.replace()
                return
            await asyncio.sleep(BEAT_EVERY_S)
