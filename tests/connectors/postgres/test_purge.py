"""What the ledger forgets, what it keeps however old, and that one caller at a time is at it."""

from __future__ import annotations

from datetime import timedelta

import pytest

NOW = timedelta(0)  # all that is there is older
HOUR = timedelta(hours=1)


async def over(scene, worker, *names, thread="a"):
    for name in names:
        (claim,) = (await scene.admit(worker, scene.start(name, thread))).claims
        await scene.run(worker, claim)


async def kept(scene, table="turns"):
    return await scene.pool.fetchval(f"SELECT count(*) FROM {table}")


async def test_only_what_is_closed_and_old_is_forgotten(scene):
    worker = await scene.worker()
    (claim,) = (await scene.admit(worker, scene.start("1"), scene.cancel("x"))).claims
    await scene.run(worker, claim)
    await scene.admit(worker, scene.start("2"))
    assert not any((await scene.ledger.purge(HOUR, 10)).values())
    gone = await scene.ledger.purge(NOW, 10)
    assert (gone["turns"], gone["early_cancels"]) == (1, 1)
    assert await scene.ledger.turn("acme", claim.turn_id) is None
    assert (await scene.ledger.turn("acme", scene.turn_id("2"))).status == "running"


async def test_a_batch_is_bounded(scene):
    worker = await scene.worker()
    await over(scene, worker, *"12345")
    forgotten = [(await scene.ledger.purge(NOW, 2))["turns"] for _ in range(4)]
    assert forgotten == [2, 2, 1, 0]


async def test_one_caller_at_a_time(scene):
    worker = await scene.worker()
    await over(scene, worker, "1")
    async with scene.pool.acquire() as first, first.transaction():
        await first.fetch("SELECT purge('1 h', 10)")
        assert await scene.ledger.purge(NOW, 10) == {}
    assert (await scene.ledger.purge(NOW, 10))["turns"] == 1


async def test_the_turn_whose_question_is_open_stays_and_the_chain_goes_on_from_it(scene):
    worker = await scene.worker()
    (asks,) = (await scene.admit(worker, scene.start("1"))).claims
    await scene.run(worker, asks, "interrupted", interrupts=("i1",))
    (again,) = (await scene.admit(worker, scene.resume("2", "i1"))).claims
    await scene.run(worker, again, "interrupted", interrupts=("i2",))
    assert (await scene.ledger.purge(NOW, 10))["turns"] == 1
    assert await scene.ledger.turn("acme", again.turn_id)
    (last,) = (await scene.admit(worker, scene.resume("3", "i2"))).claims
    assert (last.outcome, last.origin) == (None, asks.turn_id)
    assert (await scene.ledger.purge(NOW, 10))["turns"] == 0, "a refused answer puts it back"
    await scene.run(worker, last)
    assert (await scene.ledger.purge(NOW, 10))["turns"] == 2


async def test_a_thread_outlives_its_turns(scene):
    worker = await scene.worker()
    await over(scene, worker, "1")
    await scene.ledger.purge(NOW, 10)
    thread = await scene.ledger.thread("acme/a")
    assert (thread.graph, thread.busy, thread.first_off) == ("agent", False, 10)
    await over(scene, worker, "2")
    assert (await scene.ledger.turn("acme", scene.turn_id("2"))).status == "completed"


@pytest.mark.parametrize(
    ("what", "due", "sent", "goes"),
    [
        ("drop", "NULL", "NULL", True),
        ("requeue", "now()", "NULL", False),
        ("requeue", "NULL", "now()", False),
        ("requeue", "NULL", "now() - interval '2 days'", True),
    ],
)
async def test_a_decision_stays_until_it_was_carried_out_long_ago(scene, what, due, sent, goes):
    await scene.pool.execute(
        f"""
        INSERT INTO letter_decisions (topic, letter, requeues, what, tenant, actor, note, code,
          message, place, partition, src_off, edited, decided_at, due, sent_at)
        VALUES ('turns', gen_random_uuid(), 0, '{what}', 'acme', '', '', '', '', '', 0, 0, false,
          now() - interval '2 days', {due}, {sent})
        """
    )
    gone = await scene.ledger.purge(HOUR, 10)
    assert gone["letter_decisions"] == goes
    assert await kept(scene, "letter_decisions") == (not goes)


async def test_counted_turns_are_forgotten_with_the_rest(scene):
    await scene.pool.execute(
        "INSERT INTO usage_turns SELECT 'acme', gen_random_uuid(), 0, '[]', now() - interval '1 d'"
    )
    assert (await scene.ledger.purge(timedelta(days=2), 10))["usage_turns"] == 0
    assert (await scene.ledger.purge(HOUR, 10))["usage_turns"] == 1
