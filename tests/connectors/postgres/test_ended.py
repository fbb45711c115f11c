from __future__ import annotations

from turnstream.connectors.postgres.ledger.ledger import Closed, Finish


async def ended(scene, worker, *names):
    commands = [scene.start(n, f"t{n}", known=False) for n in names]
    return (await scene.admit(worker, *commands)).ended


async def overdue(scene):
    await scene.pool.execute("UPDATE ended SET at = now()")


async def test_the_sweep_takes_what_nobody_closed_in_time(scene):
    worker = await scene.worker()
    given = await ended(scene, worker, "1", "2", "3")
    assert await scene.ledger.sweep(10) == [], "the decider has two seconds"
    await overdue(scene)
    swept = await scene.ledger.sweep(10)
    assert {e.turn_id: e for e in swept} == {e.turn_id: e for e in given}
    assert await scene.ledger.sweep(10) == [], "each is left to one sweep for a while"


async def test_what_is_closed_is_over(scene):
    worker = await scene.worker()
    one, two = await ended(scene, worker, "1", "2")
    assert await scene.ledger.open_total() == 2
    item = Closed(one.thread_key, one.turn_id, 12)
    assert await scene.ledger.close_ended([item], one.timeline) == 1
    assert await scene.ledger.close_ended([item], one.timeline) == 0
    assert await scene.ledger.open_total() == 1
    await overdue(scene)
    assert [e.turn_id for e in await scene.ledger.sweep(10)] == [two.turn_id]
    turn = await scene.ledger.turn("acme", one.turn_id)
    assert (turn.first_off, turn.status) == (12, "failed")
    assert turn.closed_at
    thread = await scene.ledger.thread(one.thread_key)
    assert (thread.first_off, thread.last_off) == (12, 12)


async def test_a_close_of_another_timeline_does_nothing(scene):
    worker = await scene.worker()
    (one,) = await ended(scene, worker, "1")
    await scene.pool.execute("SELECT raise_timeline()")
    item = Closed(one.thread_key, one.turn_id, 12)
    assert await scene.ledger.close_ended([item], one.timeline) == 0
    await overdue(scene)
    (again,) = await scene.ledger.sweep(10)
    assert again.timeline == one.timeline + 1
    assert await scene.ledger.close_ended([item], again.timeline) == 1


async def test_a_later_end_stretches_the_threads_records(scene):
    worker = await scene.worker()
    given = await scene.admit(worker, scene.start("1"), scene.start("2", on_busy="reject"))
    (end,) = given.ended
    await scene.ledger.close_ended([Closed(end.thread_key, end.turn_id, 90)], end.timeline)
    # where the thread begins only the turn that runs can tell
    assert (await scene.ledger.thread("acme/a")).first_off is None
    (claim,) = given.claims
    await scene.settle(claim)
    await scene.ledger.finish(worker, 0, [Finish(claim.thread_key, claim.epoch, 80)])
    assert (await scene.ledger.thread("acme/a")).last_off == 90
