from __future__ import annotations

import asyncio

import pytest

from turnstream.connectors.postgres.ledger.ledger import Moved, Reused
from turnstream.schemas.errors import TurnstreamError


async def test_an_idle_thread_is_claimed_at_admission(scene):
    worker = await scene.worker()
    given = await scene.admit(worker, scene.start("one", src_off=41))
    (claim,) = given.claims
    assert (claim.thread_key, claim.tenant, claim.thread_id) == ("acme/a", "acme", "a")
    assert (claim.turn_id, claim.origin) == (scene.turn_id("one"),) * 2
    assert claim.epoch == (await scene.ledger.timeline() << 40) + 1
    assert (claim.partition, claim.src_topic, claim.src_part, claim.src_off) == (3, "turns", 0, 41)
    assert (claim.kind, claim.graph, claim.body) == ("start", "agent", b"start one a")
    assert (claim.attempts, claim.started_again, claim.outcome) == (1, False, None)
    assert (claim.base, claim.keep_n, claim.high_n, claim.keep) == (0, 0, 0, ())
    assert await scene.ledger.open_total() == 1


async def test_without_room_the_thread_waits_in_ready(scene):
    worker = await scene.worker()
    given = await scene.admit(worker, scene.start("1", "a"), scene.start("2", "b"), room=1)
    assert [c.thread_key for c in given.claims] == ["acme/a"]
    assert given.woke == ("acme/b",)
    (claim,) = await scene.ledger.reclaim(worker, 5)
    assert claim.turn_id == scene.turn_id("2")
    assert await scene.ready() == []


async def test_an_unknown_worker_claims_nothing(scene):
    given = await scene.admit(scene.turn_id("nobody"), scene.start("1"))
    assert given.claims == ()
    assert given.woke == ("acme/a",)


async def test_a_busy_thread_queues_in_the_order_of_the_batch(scene):
    worker = await scene.worker()
    names = [str(i) for i in range(5)]
    given = await scene.admit(worker, *[scene.start(n) for n in names])
    claims, seen = list(given.claims), []
    while claims:
        (claim,) = claims
        seen.append(claim.turn_id)
        claims = await scene.run(worker, claim)
    assert seen == [scene.turn_id(n) for n in names]
    assert await scene.ledger.open_total() == 0


async def test_the_position_is_compared_and_moved(scene):
    worker = await scene.worker()
    assert await scene.ledger.position("turns", 0) is None
    args = ("turns", 0)
    one = [scene.start("1")]
    assert await scene.ledger.admit(*args, 0, 1, one, worker=worker, room=1) == Moved(position=None)
    assert await scene.ledger.open_position("turns", 0, 5) == 5
    assert await scene.ledger.open_position("turns", 0, 9) == 5
    for at in (4, 6):
        given = await scene.ledger.admit(*args, at, at + 1, one, worker=worker, room=1)
        assert given == Moved(position=5)
    assert await scene.ledger.turn("acme", scene.turn_id("1")) is None
    await scene.ledger.admit(*args, 5, 6, one, worker=worker, room=1)
    assert await scene.ledger.position("turns", 0) == 6
    await scene.ledger.admit(*args, 6, 9, [], worker=worker, room=1)
    assert await scene.ledger.position("turns", 0) == 9


async def test_a_redelivered_command_is_ignored(scene):
    worker = await scene.worker()
    await scene.admit(worker, scene.start("1"), scene.start("1"))
    again = await scene.admit(worker, scene.start("1"))
    assert (again.claims, again.ended) == ((), ())
    assert await scene.ledger.open_total() == 1


async def test_another_body_under_the_same_id_writes_nothing(scene):
    worker = await scene.worker()
    await scene.admit(worker, scene.start("1"))
    batch = [
        scene.start("1", body=b"other", src_off=7),
        scene.start("2", "b", src_off=8),
        scene.start("2", "b", src_off=9),
        scene.start("2", "b", body=b"other", src_off=10),
    ]
    assert await scene.try_admit(worker, *batch) == Reused(offsets=(7, 10))
    assert await scene.ledger.position("turns", 0) == scene.at
    assert await scene.ledger.thread("acme/b") is None
    await scene.admit(worker, batch[1], batch[2])
    assert (await scene.ledger.turn("acme", scene.turn_id("2"))).body == batch[1].body


@pytest.mark.parametrize(
    ("fields", "status", "code"),
    [
        ({"known": False, "graph": "none"}, "failed", "unknown_graph"),
        ({"on_busy": "reject"}, "rejected", "thread_busy"),
    ],
)
async def test_what_cannot_run_ends_unclaimed(scene, fields, status, code):
    worker = await scene.worker()
    given = await scene.admit(worker, scene.start("1"), scene.start("2", **fields))
    (ended,) = given.ended
    assert (ended.turn_id, ended.partition) == (scene.turn_id("2"), 3)
    assert (ended.outcome.status, ended.outcome.code) == (status, code)
    assert ended.timeline == await scene.ledger.timeline()
    assert await scene.run(worker, given.claims[0]) == []


async def test_reject_runs_on_an_idle_thread_and_after_an_outcome(scene):
    worker = await scene.worker()
    (claim,) = (await scene.admit(worker, scene.start("1", on_busy="reject"))).claims
    await scene.settle(claim)
    given = await scene.admit(worker, scene.start("2", on_busy="reject"))
    assert given.ended == ()
    (after,) = await scene.ledger.finish(worker, 1, [(claim.thread_key, claim.epoch, 1)])
    assert after.turn_id == scene.turn_id("2")


async def test_cancel_of_a_queued_turn_ends_it(scene):
    worker = await scene.worker()
    given = await scene.admit(worker, scene.start("1"), scene.start("2"), scene.start("3"))
    ended = (await scene.admit(worker, scene.cancel("2"))).ended
    assert [(e.turn_id, e.outcome.status) for e in ended] == [(scene.turn_id("2"), "cancelled")]
    (after,) = await scene.run(worker, given.claims[0])
    assert after.turn_id == scene.turn_id("3")


async def test_cancel_of_a_running_turn_is_a_flag_that_stays(scene):
    worker = await scene.worker()
    (claim,) = (await scene.admit(worker, scene.start("1"))).claims
    assert (await scene.admit(worker, scene.cancel("1"))).cancelled == ("acme/a",)
    await scene.ledger.release([(claim.thread_key, claim.epoch)])
    (again,) = await scene.ledger.reclaim(worker, 1)
    assert (again.cancel, again.outcome) == ("cancel", None)


async def test_the_flag_is_not_the_next_turns(scene):
    worker = await scene.worker()
    given = await scene.admit(worker, scene.start("1"), scene.start("2"), scene.cancel("1"))
    assert [e.turn_id for e in given.ended] == [scene.turn_id("1")]  # claims come after the batch
    (claim,) = given.claims
    await scene.admit(worker, scene.start("3"), scene.cancel("2"))
    (after,) = await scene.run(worker, claim, "cancelled")
    assert (after.turn_id, after.cancel) == (scene.turn_id("3"), None)


async def test_cancel_of_a_turn_with_an_outcome_does_nothing(scene):
    worker = await scene.worker()
    (claim,) = (await scene.admit(worker, scene.start("1"))).claims
    await scene.settle(claim)
    given = await scene.admit(worker, scene.cancel("1"))
    assert (given.cancelled, given.ended) == ((), ())


async def test_a_cancel_that_comes_first_is_kept(scene):
    worker = await scene.worker()
    await scene.admit(worker, scene.cancel("1"))
    given = await scene.admit(worker, scene.start("1"))
    assert [e.outcome.status for e in given.ended] == ["cancelled"]
    assert given.claims == ()


async def test_cancels_of_turns_that_never_come_are_bounded(scene):
    worker = await scene.worker()
    await scene.admit(worker, *(scene.cancel(f"b{i}", "b") for i in range(3)))
    await scene.admit(worker, scene.cancel("old"))
    for batch in range(3):
        await scene.admit(worker, *(scene.cancel(f"{batch}-{i}") for i in range(70)))
    await scene.admit(worker, scene.cancel("early"), scene.cancel("early"))
    kept = "SELECT count(*) FROM early_cancels WHERE thread_key = $1"
    assert await scene.pool.fetchval(kept, "acme/a") == 100
    assert await scene.pool.fetchval(kept, "acme/b") == 3
    # the latest count, the oldest are gone
    given = await scene.admit(worker, scene.start("early"), scene.start("2-0"), scene.start("old"))
    assert [e.turn_id for e in given.ended] == [scene.turn_id("early"), scene.turn_id("2-0")]
    assert [c.turn_id for c in given.claims] == [scene.turn_id("old")]


async def test_cancels_make_no_threads(scene):
    worker = await scene.worker()
    await scene.admit(worker, *(scene.cancel(f"c{i}", f"unknown-{i}") for i in range(20)))
    await scene.admit(worker, scene.start("1"), scene.cancel("1", "another"), scene.cancel("1"))
    rows = await scene.pool.fetch("SELECT thread_key FROM threads")
    assert [row["thread_key"] for row in rows] == ["acme/a"]
    # a cancel that comes first still counts, in the batch of its turn too
    batch = scene.cancel("2", "b"), scene.start("2", "b"), scene.start("c0", "unknown-0")
    given = await scene.admit(worker, *batch)
    assert [e.turn_id for e in given.ended] == [scene.turn_id("2"), scene.turn_id("c0")]
    assert {e.outcome.status for e in given.ended} == {"cancelled"}
    # and a thread that has had turns keeps its row without them
    await scene.pool.execute("DELETE FROM turns")
    await scene.admit(worker, scene.cancel("3"), scene.cancel("4", "b"))
    assert await scene.pool.fetchval("SELECT count(*) FROM threads") == 3


async def test_a_tenants_cancels_of_turns_that_never_come_are_bounded(scene):
    worker = await scene.worker()
    await scene.admit(worker, scene.cancel("oldest", "x"))
    await scene.pool.execute("UPDATE early_cancels SET created_at = now() - interval '2 h'")
    await scene.pool.execute(
        """
        INSERT INTO early_cancels (tenant, turn_id, thread_key, created_at)
        SELECT t, gen_random_uuid(), t || '/' || i, now() - interval '1 h' + i * interval '1 us'
          FROM generate_series(1, 9999) i, unnest('{acme,other}'::text[]) t
        """
    )
    kept = "SELECT count(*) FROM early_cancels WHERE tenant = $1"
    await scene.admit(worker, scene.cancel("1", "y"), scene.cancel("2", "z"))
    assert await scene.pool.fetchval(kept, "acme") == 10_000
    assert await scene.pool.fetchval(kept, "other") == 9_999
    given = await scene.admit(worker, scene.start("2", "z"), scene.start("oldest", "x"))
    assert [e.turn_id for e in given.ended] == [scene.turn_id("2")]
    assert [c.turn_id for c in given.claims] == [scene.turn_id("oldest")]


async def test_a_cancel_and_its_turn_at_once_on_a_new_thread_agree(scene):
    """On two input partitions, the thread unknown: whoever is second sees the other."""
    worker = await scene.worker()
    for part in (0, 1):
        await scene.ledger.open_position("turns", part, 0)
    for n in range(40):
        cancel, start = scene.cancel(f"r{n}", f"r{n}"), scene.start(f"r{n}", f"r{n}")
        first, second = await asyncio.gather(
            scene.ledger.admit("turns", 0, n, n + 1, [cancel], worker=worker, room=0),
            scene.ledger.admit("turns", 1, n, n + 1, [start], worker=worker, room=0),
        )
        assert len(first.ended) + len(second.ended) == 1, n


async def test_a_cancel_under_another_thread_does_nothing(scene):
    worker = await scene.worker()
    await scene.admit(worker, scene.start("1"))
    given = await scene.admit(worker, scene.cancel("1", "b"), scene.cancel("2", "b"))
    assert (given.cancelled, given.ended) == ((), ())
    assert (await scene.admit(worker, scene.start("2", "c"))).ended == ()


async def test_a_threads_partition_stays(scene):
    worker = await scene.worker()
    (claim,) = (await scene.admit(worker, scene.start("1"))).claims
    moved = scene.start("2")
    object.__setattr__(moved, "partition", 9)
    await scene.admit(worker, moved)
    (after,) = await scene.run(worker, claim)
    assert after.partition == 3


async def test_two_intakes_of_one_partition_admit_it_once(scene):
    worker = await scene.worker()
    await scene.ledger.open_position("turns", 0, 0)
    batch = [scene.start(str(i), f"t{i}") for i in range(20)]
    given = await asyncio.gather(
        *[scene.ledger.admit("turns", 0, 0, 20, batch, worker=worker, room=50) for _ in range(6)]
    )
    assert sorted(type(g).__name__ for g in given) == ["Admitted"] + ["Moved"] * 5


async def test_text_that_postgres_cannot_hold_is_our_error(scene):
    worker = await scene.worker()
    with pytest.raises(TurnstreamError) as caught:
        await scene.admit(worker, scene.start("1", "a\x00b"))
    assert not caught.value.retryable
    with pytest.raises(TurnstreamError) as caught:
        await scene.admit(worker, scene.start("1", actor="\ud800"))
    assert not caught.value.retryable


async def test_deadlocked_batches_are_repeated(scene):
    """Two batches that each reuse the other's turn ids under threads of their own."""
    worker = await scene.worker()
    for round_ in range(5):
        for part in (0, 1):
            await scene.ledger.open_position(f"in{round_}", part, 0)
        names = [f"{round_}-{i}" for i in range(40)]
        flipped = list(reversed(names))
        batches = [
            [scene.start(n, f"{p}{n}", body=b"x") for n in order]
            for p, order in zip("pq", (names, flipped), strict=True)
        ]
        given = await asyncio.gather(
            *[
                scene.ledger.admit(f"in{round_}", p, 0, 40, b, worker=worker, room=0)
                for p, b in enumerate(batches)
            ]
        )
        assert all(type(g).__name__ == "Admitted" for g in given)
    assert await scene.pool.fetchval("SELECT count(*) FROM turns") == 5 * 40
