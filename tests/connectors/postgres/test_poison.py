"""Attempts that end without a release: what counts, who is a suspect, when a turn is parked."""

from __future__ import annotations

import dataclasses
import json
import uuid
from typing import TYPE_CHECKING, Any

import msgspec

from turnstream.schemas.records.results import Carried
from turnstream.streams.worker.beginning import reason_of

if TYPE_CHECKING:
    from turnstream.connectors.postgres.ledger.ledger import Claim


async def dies(scene, worker: uuid.UUID) -> None:
    """The worker's lease runs out, and a peer frees its threads."""
    await scene.pool.execute(
        "UPDATE workers SET lease_until = clock_timestamp() WHERE worker = $1", worker
    )
    assert await scene.ledger.reap() > 0


async def due(scene) -> None:
    """Let what waits for its time in ready be due."""
    await scene.pool.execute("UPDATE ready SET at = clock_timestamp() WHERE at > clock_timestamp()")


async def next_claims(scene, room: int = 8) -> tuple[uuid.UUID, dict[str, Claim]]:
    worker = await scene.worker()
    await due(scene)
    return worker, {claim.thread_id: claim for claim in await scene.ledger.reclaim(worker, room)}


async def attempts(scene, thread: str = "a") -> int:
    sql = "SELECT attempts FROM threads WHERE thread_key = $1"
    return await scene.pool.fetchval(sql, f"acme/{thread}")


async def test_a_turn_that_kills_its_workers_is_parked_and_those_beside_it_are_not(scene):
    worker = await scene.worker()
    names = ("bad", "b", "c")
    await scene.admit(worker, *(scene.start(name, name) for name in names))
    for death in (1, 2):  # all of them share the crash
        await dies(scene, worker)
        worker = await scene.worker()
        if death == 1:
            claims = {c.thread_id: c for c in await scene.ledger.reclaim(worker, 8)}
            assert set(claims) == set(names)
    # from now on one at a time
    ran: list[str] = []
    while True:
        await due(scene)
        (claim,) = await scene.ledger.reclaim(worker, 1)
        if claim.parked:
            break
        assert await scene.ledger.reclaim(worker, 8) == []
        ran.append(claim.thread_id)
        if claim.thread_id == "bad":
            await dies(scene, worker)
            worker = await scene.worker()
        else:
            await scene.run(worker, claim)
    assert ran.count("bad") == 2
    assert (claim.thread_id, claim.attempts) == ("bad", 5)
    assert claim.outcome is None
    assert claim.parked == (
        "parked after 4 attempts that ended without a result, 2 of them as the only suspect of its"
        " worker; the last: worker w stopped renewing its lease"
    )
    # it ends like any other turn, and its thread goes on
    await scene.admit(worker, scene.start("after", "bad"))
    (after,) = await scene.run(worker, claim, "failed")
    assert (after.turn_id, after.attempts) == (scene.turn_id("after"), 1)
    for name in set(names) - set(ran):
        await due(scene)
        (claim,) = await scene.ledger.reclaim(worker, 8)
        assert (claim.thread_id, claim.parked) == (name, "")
        await scene.run(worker, claim)


async def test_one_that_kills_even_who_parks_it_gets_its_outcome_from_the_ledger(scene):
    worker = await scene.worker()
    await scene.admit(worker, scene.start("bad"))
    for _ in range(5):
        await dies(scene, worker)
        worker, claims = await next_claims(scene)
    claim = claims["a"]
    assert claim.outcome is not None
    assert (claim.outcome.status, claim.outcome.code) == ("failed", "poisoned")
    assert "parked after 5 attempts" in claim.outcome.message
    assert await scene.ledger.finish(worker, 1, [(claim.thread_key, claim.epoch, 1, 1)]) == []
    assert (await scene.ledger.turn("acme", claim.turn_id)).closed_at is not None


async def test_an_end_that_the_ledger_decided_is_of_no_attempt(scene):
    """`base` may name an attempt whose own end a restore has lost, and readers then show that."""
    worker = await scene.worker()
    await scene.admit(worker, scene.start("bad"))
    for _ in range(5):
        await dies(scene, worker)
        worker, claims = await next_claims(scene)
    claim = claims["a"]
    assert claim.outcome is not None
    assert reason_of(claim) == "again"
    by_attempt = msgspec.structs.replace(claim.outcome, attempts=claim.attempts)
    assert reason_of(dataclasses.replace(claim, outcome=by_attempt)) == "decided"


async def test_a_suspect_waits_for_its_turn_and_does_not_hold_others_up(scene):
    worker = await scene.worker()
    await scene.admit(worker, scene.start("1", "a"), scene.start("2", "b"))
    await dies(scene, worker)
    worker, _ = await next_claims(scene)
    await dies(scene, worker)
    worker, claims = await next_claims(scene)
    (running,) = claims.values()
    other = {"a": "b", "b": "a"}[running.thread_id]
    assert await scene.ready() == [f"acme/{other}"]
    assert (await scene.admit(worker, scene.start("3", "c"))).claims  # a healthy one beside it
    # another worker has a slot of its own
    second, claims = await next_claims(scene)
    assert set(claims) == {other}
    # a slot is free as soon as its suspect is over
    await scene.ledger.release([(running.thread_key, running.epoch)])
    await due(scene)
    assert len(await scene.ledger.reclaim(worker, 8)) == 1
    assert second != worker


async def test_releases_do_not_count_and_end_no_suspicion(scene):
    worker = await scene.worker()
    await scene.admit(worker, scene.start("1"))
    await dies(scene, worker)
    for _ in range(6):
        worker, claims = await next_claims(scene)
        assert claims["a"].attempts == 2
        await scene.ledger.release([("acme/a", claims["a"].epoch)])
    # neither does a worker that leaves, nor a database that went back
    for ends in ("SELECT dismiss_worker($1)", "SELECT raise_timeline() WHERE $1::uuid IS NOT NULL"):
        worker, claims = await next_claims(scene)
        assert claims["a"].attempts == 2
        await scene.pool.execute(ends, worker)
        await scene.ledger.reap()


async def test_an_outage_of_the_database_blames_nobody(scene):
    worker = await scene.worker()
    await scene.admit(worker, scene.start("1"))
    # as after a restart of the server: the session that renewed is older than the server
    await scene.pool.execute("UPDATE workers SET backend_start = '2000-01-01'")
    await dies(scene, worker)
    assert await attempts(scene) == 0


async def test_a_worker_that_was_cut_off_is_excused(scene):
    worker = await scene.worker()
    (claim,) = (await scene.admit(worker, scene.start("1"))).claims
    await dies(scene, worker)
    assert await attempts(scene) == 1
    await scene.ledger.excuse([(claim.thread_key, claim.seq, claim.epoch)])
    assert await attempts(scene) == 0
    # the next owner's own attempt stays counted, and a later turn is not meant
    worker, claims = await next_claims(scene)
    await scene.ledger.excuse([(claim.thread_key, claim.seq, claim.epoch)])
    assert await attempts(scene) == 1
    await scene.admit(worker, scene.start("2"))
    (after,) = await scene.run(worker, claims["a"])
    await dies(scene, worker)
    await scene.ledger.excuse([(claim.thread_key, claim.seq, claim.epoch)])
    assert after.attempts == await attempts(scene) == 1


async def test_an_attempt_that_breaks_counts_and_waits_longer_each_time(scene):
    worker = await scene.worker()
    (claim,) = (await scene.admit(worker, scene.start("1"))).claims
    waits: list[float] = []
    for _ in range(4):
        given = await scene.ledger.release([(claim.thread_key, claim.epoch)], "KeyError: 'x'\x00")
        assert given == ["acme/a"]
        assert await scene.ledger.reclaim(worker, 8) == []
        waits.append(
            await scene.pool.fetchval(
                "SELECT extract(epoch FROM at - clock_timestamp())::float8 FROM ready"
            )
        )
        await due(scene)
        (claim,) = await scene.ledger.reclaim(worker, 8)
    assert claim.attempts == 5
    assert claim.parked.endswith("the last: KeyError: 'x'\ufffd")
    for wait, base in zip(waits, (2, 8, 32, 60), strict=True):
        assert base * 0.7 < wait < base * 1.3


async def test_what_an_attempt_hands_on_comes_with_the_next_claim(scene):
    worker = await scene.worker()
    (claim,) = (await scene.admit(worker, scene.start("1"), scene.start("2"))).claims
    assert claim.carried == Carried()
    assert 0 <= claim.age_s < 10
    carried: dict[str, Any] = {"message_id": "m", "usage": [{"model": "a\x00b"}]}
    await scene.pool.execute(
        "UPDATE threads SET carried = $1, head_at = head_at - interval '1 h'", json.dumps(carried)
    )
    await dies(scene, worker)
    worker, claims = await next_claims(scene)
    assert msgspec.to_builtins(claims["a"].carried)["message_id"] == "m"
    assert 3600 <= claims["a"].age_s < 3610
    (after,) = await scene.run(worker, claims["a"])
    assert (after.carried, after.age_s < 10) == (Carried(), True)
