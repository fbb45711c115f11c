"""What a commit covers: what was said before it began to wait for acks, nothing that came after.

A crash may lose whatever was said during the wait; a ledger that counts it has text, or numbers,
that no reader ever gets.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from tests.connectors.postgres.test_saver import (
    TASK_A,
    TASK_B,
    Bench,
    checkpoint,
    config,
    opened,
    put,
    until,
)
from turnstream.schemas.records.results import Outcome

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine

    from turnstream.connectors.postgres.checkpoints.commits import Session


@pytest.fixture
async def bench(ledger_dsn: str) -> AsyncIterator[Bench]:
    async with opened(ledger_dsn) as made:
        made.log.auto = False
        yield made


COMMITS: dict[str, Callable[[Bench, Session], Coroutine[Any, Any, None]]] = {
    "nested step": lambda bench, _: put(bench.saver, checkpoint(), ns=f"outer:{TASK_A}"),
    "task": lambda bench, _: bench.saver.aput_writes(config("", "c"), [("c", 1)], TASK_A),
    "outcome": lambda bench, session: session.commit_outcome(Outcome(status="completed")),
}


@pytest.mark.parametrize("what", COMMITS)
async def test_what_is_said_during_the_wait_is_not_covered(bench: Bench, what: str) -> None:
    session = bench.session()
    with session.bound():
        bench.say(TASK_A)
        committing = asyncio.create_task(COMMITS[what](bench, session))
        await until(lambda: bench.log.waited_for)
        covered = bench.log.n
        assert bench.log.waited_for == [covered]
        bench.say(f"{TASK_A}|{TASK_B}")  # of a task beside it, or of one that does not stop
        bench.log.ack(covered)
        await committing
    thread = bench.thread()
    assert thread["high_n"] == covered
    assert thread["keep_n"] in (0, covered)
    assert all(entry["n"] == covered for entry in thread["keep"])


async def test_a_flush_leaves_what_was_queued_during_its_wait(bench: Bench) -> None:
    session = bench.session()
    with session.bound():
        bench.say()
        held: Any = {"source": "input", "step": -1, "parents": {}}
        await bench.saver.aput(config(), checkpoint(), held, {})
        flushing = asyncio.create_task(session.flush())
        await until(lambda: bench.log.waited_for)
        covered = bench.log.n
        bench.say(TASK_A)
        writing = asyncio.create_task(COMMITS["task"](bench, session))
        await until(lambda: bench.log.waited_for == [covered, covered + 1])
        bench.log.ack(covered)
        await flushing
        assert bench.count("checkpoints") == 1
        assert bench.count("checkpoint_writes") == 0
        assert bench.thread()["high_n"] == covered
        bench.log.ack(covered + 1)
        await writing
    assert bench.count("checkpoint_writes") == 1
    assert bench.thread()["high_n"] == covered + 1
