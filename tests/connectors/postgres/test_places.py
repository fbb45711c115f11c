"""Where threads' records lie: one suite over the twin and over the ledger."""

from __future__ import annotations

import dataclasses

import pytest

from turnstream.connectors.memory.places import MemoryPlaces
from turnstream.connectors.postgres.ledger.ledger import Finish
from turnstream.connectors.postgres.stores.places import LedgerPlaces
from turnstream.schemas.places import Place

KEY = "acme/a"


@pytest.fixture(params=["memory", "ledger"])
async def places(request, scene):
    """Thread `a` has turn `first` at 33 up to 40, and `second` that waits; thread `b` nothing."""
    if request.param == "memory":
        place = Place(partition=3, alive=False, first=33, closed_to=40, starts=(33,), epoch=1)
        return MemoryPlaces({KEY: place}, {(KEY, str(scene.turn_id("first"))): 33})
    worker = await scene.worker()
    (claim,) = (await scene.admit(worker, scene.start("first"))).claims
    await scene.settle(claim)
    await scene.pool.execute("UPDATE threads SET head_off = NULL")
    finish = Finish(claim.thread_key, claim.epoch, 40, first_off=33)
    assert await scene.ledger.finish(worker, 0, [finish]) == []
    await scene.admit(worker, scene.start("second"), room=0)
    return LedgerPlaces(scene.ledger)


async def test_a_place(places):
    place = await places.place(KEY)
    known = dataclasses.replace(place, created_ms=0, epoch=1, timeline=0)
    assert known == Place(partition=3, alive=False, first=33, closed_to=40, starts=(33,), epoch=1)


async def test_an_unknown_thread_has_no_place(places):
    assert await places.place("acme/none") is None


async def test_the_start_of_a_turn(places, scene):
    first, second = (str(scene.turn_id(name)) for name in ("first", "second"))
    assert await places.start_of(KEY, first) == 33
    assert await places.start_of(KEY, second) is None, "it has not begun"
    assert await places.start_of("acme/b", first) is None, "it is of another thread"
    assert await places.start_of(KEY, str(scene.turn_id("none"))) is None
