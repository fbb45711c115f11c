from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from turnstream.connectors.postgres.ledger.ledger import Finish
from turnstream.schemas.records.events import Keep


async def claimed(scene, worker, *commands):
    return (await scene.admit(worker, *commands)).claims


async def test_each_claim_raises_the_epoch_and_reads_what_was_kept(scene):
    worker = await scene.worker()
    (first,) = await claimed(scene, worker, scene.start("1"))
    keep = [Keep("t1", 3), Keep("t2|", 4)]
    await scene.pool.execute(
        "UPDATE threads SET keep_n = 2, high_n = 5, base = epoch, head_off = 10, keep = $1",
        msgspec.json.encode(keep).decode(),
    )
    assert await scene.ledger.release([(first.thread_key, first.epoch)]) == ["acme/a"]
    (second,) = await scene.ledger.reclaim(worker, 1)
    assert second.epoch == first.epoch + 1
    assert (second.base, second.keep_n, second.high_n) == (first.epoch, 2, 5)
    assert second.keep == tuple(keep)
    assert (second.started_again, second.first_off) == (True, 10)
    assert second.attempts == 1, "a release does not count"


async def test_attempts_count_what_ended_without_a_release(scene):
    worker = await scene.worker(ttl_s=0)
    await claimed(scene, worker, scene.start("1"))
    assert await scene.ledger.reap() == 1
    (again,) = await scene.ledger.reclaim(await scene.worker(), 1)
    assert again.attempts == 2


async def test_the_next_turn_begins_clean(scene):
    worker = await scene.worker()
    (first,) = await claimed(scene, worker, scene.start("1"), scene.start("2"))
    (second,) = await scene.run(worker, first)
    assert (second.epoch, second.started_again, second.attempts) == (first.epoch + 1, False, 1)
    assert (second.base, second.keep_n, second.high_n, second.keep) == (0, 0, 0, ())
    assert (second.first_off, second.cancel) == (None, None)


async def test_finish_writes_where_the_records_lie(scene):
    worker = await scene.worker()
    (first,) = await claimed(scene, worker, scene.start("1"), scene.start("2"))
    (second,) = await scene.run(worker, first)
    await scene.settle(second)
    await scene.pool.execute("UPDATE threads SET head_off = NULL")
    item = Finish(second.thread_key, second.epoch, 40, first_off=33)
    assert await scene.ledger.finish(worker, 1, [item]) == []
    thread = await scene.ledger.thread("acme/a")
    assert (thread.first_off, thread.last_off, thread.head, thread.busy) == (10, 40, None, False)
    turns = await scene.ledger.turns_of("acme/a", 10)
    assert [(t.first_off, t.status) for t in turns] == [(33, "completed"), (10, "completed")]
    assert all(t.closed_at for t in turns)
    assert await scene.ledger.turns_of("acme/a", 10, before=turns[0].seq) == turns[1:]
    assert turns[0].outcome.text == "said \x00"


async def test_an_outcome_is_published_by_the_next_owner(scene):
    worker = await scene.worker()
    (first,) = await claimed(scene, worker, scene.start("1"))
    await scene.settle(first)
    await scene.ledger.release([(first.thread_key, first.epoch)])
    (again,) = await scene.ledger.reclaim(worker, 1)
    assert again.outcome.status == "completed"


async def test_a_stale_epoch_changes_nothing(scene):
    worker, other = await scene.worker(), await scene.worker()
    (old,) = await claimed(scene, worker, scene.start("1"), scene.start("2"))
    await scene.ledger.release([(old.thread_key, old.epoch)])
    (new,) = await scene.ledger.reclaim(other, 1)
    assert not await scene.settle(old)
    assert await scene.ledger.finish(worker, 5, [Finish(old.thread_key, old.epoch, 1)]) == []
    assert await scene.ledger.release([(old.thread_key, old.epoch)]) == []
    thread = await scene.ledger.thread("acme/a")
    assert (thread.owner, thread.epoch, thread.head) == (other, new.epoch, scene.turn_id("1"))


async def test_a_stale_epoch_closes_nothing(scene):
    worker, other = await scene.worker(), await scene.worker()
    (old,) = await claimed(scene, worker, scene.start("1"))
    await scene.ledger.release([(old.thread_key, old.epoch)])
    (new,) = await scene.ledger.reclaim(other, 1)
    assert await scene.settle(new)
    assert await scene.ledger.finish(worker, 5, [Finish(old.thread_key, old.epoch, 1)]) == []
    assert (await scene.ledger.turn("acme", old.turn_id)).closed_at is None


async def test_another_timeline_fences_the_same_epoch(scene):
    worker = await scene.worker()
    (old,) = await claimed(scene, worker, scene.start("1"))
    before = await scene.ledger.timeline()
    assert await scene.pool.fetchval("SELECT raise_timeline()") == before + 1
    assert not await scene.settle(old)
    assert await scene.ledger.release([(old.thread_key, old.epoch)]) == []
    assert await scene.ledger.finish(worker, 5, [Finish(old.thread_key, old.epoch, 1)]) == []
    await scene.pool.execute("UPDATE workers SET lease_until = now()")
    await scene.ledger.reap()
    (new,) = await scene.ledger.reclaim(await scene.worker(), 1)
    assert new.epoch == (before + 1 << 40) + 1


async def test_another_timeline_closes_nothing(scene):
    worker = await scene.worker()
    (old,) = await claimed(scene, worker, scene.start("1"))
    assert await scene.settle(old)
    await scene.pool.execute("SELECT raise_timeline()")
    assert await scene.ledger.finish(worker, 5, [Finish(old.thread_key, old.epoch, 1)]) == []
    assert (await scene.ledger.turn("acme", old.turn_id)).closed_at is None


async def test_a_turn_without_an_outcome_is_not_finished(scene):
    worker = await scene.worker()
    (claim,) = await claimed(scene, worker, scene.start("1"))
    await scene.ledger.finish(worker, 5, [Finish(claim.thread_key, claim.epoch, 1)])
    assert (await scene.ledger.thread("acme/a")).owner == worker


async def test_finish_beyond_the_room_goes_to_ready(scene):
    worker = await scene.worker()
    (claim,) = await claimed(scene, worker, scene.start("1"), scene.start("2"))
    assert await scene.run(worker, claim, room=0) == []
    assert await scene.ready() == ["acme/a"]


async def test_finish_of_a_reaped_worker_leaves_nothing_in_ready(scene):
    worker = await scene.worker(ttl_s=0)
    (claim,) = await claimed(scene, worker, scene.start("1"))
    await scene.ledger.reap()
    assert await scene.ready() == ["acme/a"]
    assert await scene.run(worker, claim) == []
    assert await scene.ready() == []
    assert (await scene.ledger.turn("acme", claim.turn_id)).closed_at


async def test_a_waiting_thread_whose_turn_was_cancelled_is_taken_off(scene):
    worker = await scene.worker()
    await scene.admit(worker, scene.start("1"), room=0)
    await scene.admit(worker, scene.cancel("1"))
    assert await scene.ledger.reclaim(worker, 1) == []
    assert await scene.ready() == []


async def test_ready_gives_the_longest_waiting_first_and_each_once(scene):
    workers = [await scene.worker() for _ in range(4)]
    await scene.admit(workers[0], *[scene.start(f"{i}", f"t{99 - i}") for i in range(12)], room=0)
    await scene.pool.execute(
        "UPDATE ready SET at = now() - make_interval(secs => substr(thread_key, 7)::int)"
    )
    (first,) = await scene.ledger.reclaim(workers[0], 1)
    assert first.thread_key == "acme/t99"
    taken = await asyncio.gather(*[scene.ledger.reclaim(w, 4) for w in workers])
    rest = [c for w in workers for c in await scene.ledger.reclaim(w, 12)]
    keys = [c.thread_key for claims in taken for c in claims] + [c.thread_key for c in rest]
    assert sorted(keys) == [f"acme/t{n}" for n in range(88, 99)]


async def test_a_turn_before_its_time_is_not_ready(scene):
    worker = await scene.worker()
    await scene.admit(worker, scene.start("1"), room=0)
    await scene.pool.execute("UPDATE ready SET at = now() + interval '1 hour'")
    assert await scene.ledger.reclaim(worker, 1) == []
    assert await scene.ready() == ["acme/a"]


async def test_turns_for_the_front_stand_before_the_queue(scene):
    worker = await scene.worker()
    (claim,) = await claimed(scene, worker, *[scene.start(n) for n in "1234"])
    await scene.pool.execute(
        "UPDATE turns SET front = true WHERE turn_id = ANY($1)",
        [scene.turn_id("3"), scene.turn_id("4")],
    )
    seen = []
    while True:
        claims = await scene.run(worker, claim)
        if not claims:
            break
        (claim,) = claims
        seen.append(claim.turn_id)
    assert seen == [scene.turn_id(n) for n in "342"]


async def test_what_expired_fails_when_it_is_claimed(scene):
    worker = await scene.worker()
    past = datetime.now(UTC) - timedelta(seconds=1)
    late = past + timedelta(hours=1)
    (claim,) = await claimed(
        scene, worker, scene.start("1", expires_at=past), scene.start("2", expires_at=late)
    )
    assert (claim.outcome.status, claim.outcome.code) == ("failed", "expired")
    (after,) = await scene.run(worker, claim)
    assert after.outcome is None


@pytest.fixture
async def asked(scene):
    """A thread whose turn `ask` ended with two open interrupts."""
    scene.one = await scene.worker()
    (claim,) = await claimed(scene, scene.one, scene.start("ask"))
    await scene.run(scene.one, claim, "interrupted", interrupts=("i1", "i2"))
    assert (await scene.ledger.thread("acme/a")).interrupts == ("i1", "i2")
    return scene


async def test_a_resume_by_id_joins_the_chain(asked):
    (claim,) = await claimed(asked, asked.one, asked.resume("go", "i2"))
    assert (claim.kind, claim.origin, claim.outcome) == ("resume", asked.turn_id("ask"), None)
    ((interrupt, rev, actor),) = claim.resolved
    assert (interrupt, actor) == ("i2", "ann")
    assert rev > await asked.ledger.timeline() << 40
    assert (await asked.ledger.thread("acme/a")).interrupts == ()
    # what readers are to be told is told again by the next owner
    await asked.ledger.release([(claim.thread_key, claim.epoch)])
    (again,) = await asked.ledger.reclaim(asked.one, 1)
    assert again.resolved == claim.resolved
    assert again.origin == asked.turn_id("ask")


async def test_a_chain_keeps_its_first_turn_as_origin(asked):
    (claim,) = await claimed(asked, asked.one, asked.resume("go", "i1"))
    await asked.run(asked.one, claim, "interrupted", interrupts=("i2",))
    (last,) = await claimed(asked, asked.one, asked.resume("on", "i2"))
    assert last.origin == asked.turn_id("ask")
    assert last.resolved[0].rev > claim.resolved[0].rev


@pytest.mark.parametrize("answers", [("i3",), ("i1", "i3"), ()])
async def test_a_foreign_answer_changes_nothing(asked, answers):
    (claim,) = await claimed(asked, asked.one, asked.resume("go", *answers))
    assert (claim.outcome.status, claim.outcome.code) == ("rejected", "unknown_interrupt")
    assert (claim.resolved, claim.origin) == ((), asked.turn_id("go"))
    assert (await asked.ledger.thread("acme/a")).interrupts == ("i1", "i2")
    stored = await asked.ledger.turn("acme", claim.turn_id)
    assert stored.status == "rejected"
    await asked.run(asked.one, claim)
    (claim,) = await claimed(asked, asked.one, asked.resume("again", "i1", "i2"))
    assert [r.interrupt_id for r in claim.resolved] == ["i1", "i2"]


async def test_a_second_answer_is_stale(asked):
    (claim,) = await claimed(asked, asked.one, asked.resume("go", "i1"), asked.resume("late", "i1"))
    (late,) = await asked.run(asked.one, claim)
    assert late.outcome.code == "unknown_interrupt"


async def test_a_start_supersedes_the_interrupt(asked):
    (claim,) = await claimed(asked, asked.one, asked.start("new"), asked.resume("go", "i1"))
    assert [(r.interrupt_id, r.actor) for r in claim.resolved] == [
        ("i1", "superseded"),
        ("i2", "superseded"),
    ]
    assert claim.resolved[1].rev == claim.resolved[0].rev + 1
    assert (await asked.ledger.thread("acme/a")).interrupts == ()
    (late,) = await asked.run(asked.one, claim)
    assert late.outcome.code == "unknown_interrupt"
    assert late.resolved == ()


async def test_an_expired_start_supersedes_nothing(asked):
    past = datetime.now(UTC) - timedelta(seconds=1)
    (claim,) = await claimed(asked, asked.one, asked.start("new", expires_at=past))
    assert (claim.outcome.code, claim.resolved) == ("expired", ())
    assert (await asked.ledger.thread("acme/a")).interrupts == ("i1", "i2")
