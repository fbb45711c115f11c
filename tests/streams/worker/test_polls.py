"""A poll goes on whatever one look raises, and an error that nobody expected is counted."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest

from turnstream.connectors.postgres.ledger.lease import Lease
from turnstream.schemas import unexpected
from turnstream.schemas.errors import DatabaseUnavailableError
from turnstream.streams.worker import polls
from turnstream.streams.worker.polls import Polls
from turnstream.streams.worker.watch.hearing import Hearing
from turnstream.streams.worker.watch.standing import Standing


async def test_a_poll_goes_on_after_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(polls, "REQUEUE_EVERY_S", 0.001)
    raised: list[Exception] = [ValueError("user text"), DatabaseUnavailableError("away"), OSError()]
    done = asyncio.Event()

    async def requeue() -> int:
        if raised:
            raise raised.pop()
        done.set()
        return 0

    nothing: Any = None  # the other polls do not run here
    standing = Standing("w", Hearing(stall_s=1.0))
    standing.lease = Lease("", standing.worker, "w")
    standing.lease._deadline = math.inf
    looking = Polls(
        roster=nothing,
        reclaim=nothing,
        unclaimed=nothing,
        ledger=nothing,
        signals=nothing,
        requeue=requeue,
        standing=standing,
    )
    before = unexpected.counts().get("poll_requeue", 0)
    task = asyncio.create_task(looking._requeue_letters())
    try:
        async with asyncio.timeout(60):
            await done.wait()
    finally:
        task.cancel()
    assert unexpected.counts()["poll_requeue"] == before + 2
