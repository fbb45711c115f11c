"""Turns and interrupts whose time is over, by the database's clock."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest

from turnstream.connectors.postgres.ledger.ledger import Closed, Expired

PAST = datetime.now(UTC) - timedelta(seconds=1)
LATER = datetime.now(UTC) + timedelta(hours=1)


async def due(scene) -> None:
    await scene.pool.execute("UPDATE expiries SET at = now()")


async def test_a_turn_that_waits_ends_when_its_time_comes(scene):
    worker = await scene.worker()
    await scene.admit(worker, scene.start("1"), scene.start("2", expires_at=LATER))
    assert (await scene.ledger.expire(10)).ended == ()
    await due(scene)
    (ended,) = (await scene.ledger.expire(10)).ended
    assert (ended.turn_id, ended.outcome.status, ended.outcome.code) == (
        scene.turn_id("2"),
        "failed",
        "expired",
    )
    assert (ended.partition, ended.timeline) == (3, await scene.ledger.timeline())
    assert await scene.ledger.close_ended([Closed("acme/a", ended.turn_id, 5)], ended.timeline)
    assert await scene.ledger.expire(10) == Expired()


async def test_a_turn_that_runs_is_told_to_stop(scene):
    worker = await scene.worker()
    (claim,) = (await scene.admit(worker, scene.start("1", expires_at=LATER))).claims
    await due(scene)
    assert (await scene.ledger.expire(10)).cancelled == ("acme/a",)
    assert await scene.ledger.cancels(["acme/a"]) == [("acme/a", claim.epoch, "expired")]


async def test_a_turn_with_an_outcome_does_not_expire(scene):
    worker = await scene.worker()
    (claim,) = (await scene.admit(worker, scene.start("1", expires_at=LATER))).claims
    await scene.settle(claim)
    await due(scene)
    assert (await scene.ledger.expire(10)).cancelled == ()
    assert (await scene.ledger.turn("acme", claim.turn_id)).status == "completed"


async def test_another_cause_came_first(scene):
    worker = await scene.worker()
    await scene.admit(worker, scene.start("1", expires_at=LATER))
    await scene.admit(worker, scene.start("2", on_busy="rollback"))
    await due(scene)
    await scene.ledger.expire(10)
    assert (await scene.ledger.thread("acme/a")).cancel == "rollback"


async def test_what_ended_unclaimed_is_swept_like_any_other(scene):
    worker = await scene.worker()
    await scene.admit(worker, scene.start("1"), scene.start("2", expires_at=LATER))
    await due(scene)
    await scene.ledger.expire(10)
    await scene.pool.execute("UPDATE ended SET at = now()")
    (ended,) = await scene.ledger.sweep(10)
    assert ended.outcome.code == "expired"


@pytest.fixture
async def asked(scene):
    """A thread whose turn `ask` ended with two open interrupts; nobody has answered."""
    scene.one = await scene.worker()
    (claim,) = (await scene.admit(scene.one, scene.start("ask"))).claims
    await scene.run(scene.one, claim, "interrupted", interrupts=("i1", "i2"))

    async def over(*, swept: bool) -> None:
        interrupt = {"turn_id": str(claim.turn_id), "ids": ["i1", "i2"], "expires_at": 1}
        await scene.pool.execute("UPDATE threads SET interrupt = $1", json.dumps(interrupt))
        await scene.pool.execute(
            "INSERT INTO expiries VALUES ('acme', $1, 'interrupt', 'acme/a', now())", claim.turn_id
        )
        if swept:
            await scene.ledger.expire(10)

    scene.over = over
    return scene


async def test_an_interrupt_that_expired_is_closed_and_told(asked):
    before = (await asked.pool.fetchval("SELECT rev FROM threads")) or 0
    await asked.over(swept=True)
    assert (await asked.ledger.thread("acme/a")).interrupts == ()
    told = await asked.ledger.expired_interrupts(10)
    assert sorted(one.interrupt_id for one in told) == ["i1", "i2"]
    assert {one.turn_id for one in told} == {asked.turn_id("ask")}
    revs = sorted(one.rev for one in told)
    assert revs[0] > max(before, await asked.ledger.timeline() << 40)
    assert revs[1] == revs[0] + 1
    assert await asked.ledger.expired_interrupts(10) == []  # left to this caller for a while
    await asked.pool.execute("UPDATE expired_interrupts SET due = now()")
    assert len(await asked.ledger.expired_interrupts(10)) == 2  # who died before he told
    await asked.ledger.interrupts_told(told)
    await asked.pool.execute("UPDATE expired_interrupts SET due = now() WHERE due IS NOT NULL")
    assert await asked.ledger.expired_interrupts(10) == []


@pytest.mark.parametrize("swept", [True, False])
async def test_a_late_answer_is_refused_by_name_and_the_thread_goes_on(asked, swept):
    await asked.over(swept=swept)
    (late,) = (await asked.admit(asked.one, asked.resume("late", "i1"))).claims
    assert (late.outcome.status, late.outcome.code) == ("rejected", "interrupt_expired")
    assert (late.resolved, late.answering) == ((), None)
    await asked.run(asked.one, late)
    (after,) = (await asked.admit(asked.one, asked.start("new"))).claims
    assert after.outcome is None


async def test_an_answer_in_time_is_not_undone(asked):
    await asked.over(swept=False)
    await asked.pool.execute(
        "UPDATE threads SET interrupt = interrupt || '{\"expires_at\": 9000000000000000}'"
    )
    (claim,) = (await asked.admit(asked.one, asked.resume("yes", "i1"))).claims
    assert claim.outcome is None
    assert claim.answering is not None
    await asked.ledger.expire(10)  # comes late
    assert await asked.ledger.expired_interrupts(10) == []


async def test_purge_forgets_what_was_told(asked):
    await asked.over(swept=True)
    await asked.ledger.purge(timedelta(0), 10)
    told = await asked.ledger.expired_interrupts(10)
    assert len(told) == 2
    await asked.ledger.interrupts_told(told)
    await asked.ledger.purge(timedelta(0), 10)
    assert await asked.pool.fetchval("SELECT count(*) FROM expired_interrupts") == 0
