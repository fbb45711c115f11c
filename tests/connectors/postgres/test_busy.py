"""The policies `interrupt` and `rollback`: who is told to stop, and who comes next."""

from __future__ import annotations

import pytest

from turnstream.connectors.postgres.ledger.ledger import Finish


async def running(scene, *names):
    """A thread that runs the first of these turns, with the others in its queue."""
    scene.one = await scene.worker()
    (claim,) = (await scene.admit(scene.one, scene.start(names[0]))).claims
    if names[1:]:
        await scene.admit(scene.one, *[scene.start(name) for name in names[1:]])
    return claim


async def order_of(scene, claim):
    """Run what there is to run; the names in the order in which it ran."""
    seen = []
    claims = [claim]
    while claims:
        (claim,) = claims
        seen.append(claim.turn_id)
        claims = await scene.run(scene.one, claim)
    return seen


async def cancel_of(scene):
    return (await scene.ledger.thread("acme/a")).cancel


@pytest.mark.parametrize("policy", ["interrupt", "rollback"])
async def test_it_stops_the_head_and_goes_before_the_queue(scene, policy):
    claim = await running(scene, "1", "2", "3")
    given = await scene.admit(scene.one, scene.start("4", on_busy=policy))
    assert (given.claims, given.ended, given.cancelled) == ((), (), ("acme/a",))
    assert await scene.ledger.cancels(["acme/a"]) == [("acme/a", claim.epoch, policy)]
    assert await order_of(scene, claim) == [scene.turn_id(name) for name in "1423"]


async def test_those_that_go_to_the_front_keep_their_order(scene):
    claim = await running(scene, "1", "2")
    for name, policy in (("3", "interrupt"), ("4", "rollback"), ("5", "interrupt")):
        await scene.admit(scene.one, scene.start(name, on_busy=policy))
    assert await order_of(scene, claim) == [scene.turn_id(name) for name in "13452"]


@pytest.mark.parametrize("policy", ["interrupt", "rollback"])
async def test_a_turn_with_an_outcome_is_not_busy(scene, policy):
    claim = await running(scene, "1")
    await scene.settle(claim)
    given = await scene.admit(scene.one, scene.start("2", on_busy=policy))
    assert given.cancelled == ()
    assert await cancel_of(scene) is None
    (after,) = await scene.ledger.finish(scene.one, 1, [Finish("acme/a", claim.epoch, 1)])
    assert (after.turn_id, after.cancel) == (scene.turn_id("2"), None)


@pytest.mark.parametrize("policy", ["interrupt", "rollback"])
async def test_an_idle_thread_runs_it(scene, policy):
    worker = await scene.worker()
    (claim,) = (await scene.admit(worker, scene.start("1", on_busy=policy))).claims
    assert (claim.turn_id, claim.cancel, claim.outcome) == (scene.turn_id("1"), None, None)


@pytest.mark.parametrize(
    ("causes", "left"),
    [
        (("cancel", "interrupt"), "cancel"),
        (("cancel", "rollback"), "rollback"),
        (("rollback", "interrupt"), "rollback"),
        (("rollback", "cancel"), "rollback"),
        (("interrupt", "cancel"), "interrupt"),
    ],
)
async def test_a_rollback_that_was_promised_stays_one(scene, causes, left):
    await running(scene, "1")
    for i, cause in enumerate(causes):
        command = scene.cancel("1") if cause == "cancel" else scene.start(f"n{i}", on_busy=cause)
        await scene.admit(scene.one, command)
    assert await cancel_of(scene) == left


async def test_the_next_owner_is_told(scene):
    """Nobody has the thread when it comes: whoever claims it finds why the turn is to stop."""
    claim = await running(scene, "1")
    await scene.ledger.release([("acme/a", claim.epoch)])
    given = await scene.admit(scene.one, scene.start("2", on_busy="rollback"))
    assert given.claims == ()
    (again,) = await scene.ledger.reclaim(scene.one, 1)
    assert (again.turn_id, again.cancel) == (scene.turn_id("1"), "rollback")
    (after,) = await scene.run(scene.one, again, "cancelled")
    assert (after.turn_id, after.cancel) == (scene.turn_id("2"), None)


@pytest.mark.parametrize(
    "fields", [{"known": False}, {"cancelled": True}], ids=["unknown graph", "cancelled early"]
)
async def test_one_that_ends_at_once_stops_nobody(scene, fields):
    await running(scene, "1")
    if fields.pop("cancelled", False):
        await scene.admit(scene.one, scene.cancel("2"))
    given = await scene.admit(scene.one, scene.start("2", on_busy="interrupt", **fields))
    assert len(given.ended) == 1
    assert await cancel_of(scene) is None


async def test_a_redelivered_one_stops_nobody(scene):
    claim = await running(scene, "1")
    await scene.admit(scene.one, scene.start("2", on_busy="interrupt"))
    (after,) = await scene.run(scene.one, claim, "cancelled")
    await scene.admit(scene.one, scene.start("2", on_busy="interrupt"))
    assert after.turn_id == scene.turn_id("2")
    assert await cancel_of(scene) is None


async def test_it_does_not_stop_one_that_was_not_running(scene):
    """What waits is behind it, and stays: it was not busy with that."""
    claim = await running(scene, "1", "2")
    await scene.admit(scene.one, scene.start("3", on_busy="interrupt"), scene.cancel("3"))
    (after,) = await scene.run(scene.one, claim, "cancelled")
    assert (after.turn_id, after.cancel) == (scene.turn_id("2"), None)


async def test_a_thread_that_asks_is_not_busy(scene):
    claim = await running(scene, "ask")
    await scene.run(scene.one, claim, "interrupted", interrupts=("i1",))
    (after,) = (await scene.admit(scene.one, scene.start("2", on_busy="rollback"))).claims
    assert [r.actor for r in after.resolved] == ["superseded"]
    assert (await scene.ledger.turn("acme", claim.turn_id)).status == "interrupted"


async def test_it_goes_before_an_answer_that_waits(scene):
    claim = await running(scene, "ask")
    await scene.settle(claim, "interrupted", ("i1",))
    await scene.admit(scene.one, scene.resume("yes", "i1"))
    await scene.admit(scene.one, scene.start("new", on_busy="interrupt"))
    (new,) = await scene.ledger.finish(scene.one, 1, [Finish("acme/a", claim.epoch, 1)])
    assert new.turn_id == scene.turn_id("new")
    (late,) = await scene.run(scene.one, new)
    assert (late.turn_id, late.outcome.code) == (scene.turn_id("yes"), "unknown_interrupt")
