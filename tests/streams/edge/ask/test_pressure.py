"""How many starts an edge lets in between two looks at the ledger, by a clock of the test's own."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from itertools import pairwise

import pytest

from turnstream.schemas.errors import OverloadedError
from turnstream.streams.edge.ask.pressure import Pressure, Turnstile

MAX = 100


@dataclass
class Around:
    """Kafka answers, the ledger has `open` turns, and it is `now`."""

    open: int = 0
    now: float = 1000.0
    lag_s: float = 0.0

    async def open_total(self) -> int:
        return self.open

    async def workers(self) -> int:
        return 1


def opened(around: Around) -> Pressure:
    return Pressure(around, around, MAX, clock=lambda: around.now)


async def let_in(pressure: Pressure, asked: int) -> int:
    """Return how many of so many requests are let in."""
    answers = await asyncio.gather(
        *(pressure.enter() for _ in range(asked)), return_exceptions=True
    )
    refused = [answer for answer in answers if answer is not None]
    assert all(isinstance(answer, OverloadedError) for answer in refused), refused
    return asked - len(refused)


async def test_no_more_are_let_in_than_there_is_room_for() -> None:
    around = Around(open=60)
    pressure = opened(around)
    assert await let_in(pressure, 2 * MAX) == MAX, "it has not looked yet"
    await pressure.look()
    around.now += 1
    assert await let_in(pressure, 2 * MAX) == 40
    around.open = MAX
    await pressure.look()
    assert await let_in(pressure, 1) == 0


async def test_all_at_once_may_enter_where_none_was_refused() -> None:
    around = Around(open=60)
    pressure = opened(around)
    await pressure.look()
    assert await let_in(pressure, 40) == 40
    await pressure.look()
    assert await let_in(pressure, 40) == 40


async def test_after_a_refusal_room_is_given_out_evenly() -> None:
    around = Around(open=60)
    pressure = opened(around)
    await pressure.look()
    assert await let_in(pressure, 41) == 40
    await pressure.look()
    seen = []
    for _ in range(4):
        around.now += 0.25
        seen.append(await let_in(pressure, MAX))
    assert seen == [10, 10, 10, 10]
    await pressure.look()
    around.now += 1.0
    assert await let_in(pressure, 40) == 40
    await pressure.look()
    assert await let_in(pressure, 40) == 40, "none was refused since"


async def test_who_is_turned_away_gives_the_place_back() -> None:
    around = Around(open=99)
    pressure = opened(around)
    await pressure.look()
    assert await let_in(pressure, 1) == 1
    pressure.turned_away()
    assert await let_in(pressure, 2) == 1


async def test_what_is_published_takes_room_wherever_it_came_in() -> None:
    around = Around(open=99)
    pressure = opened(around)
    await pressure.look()
    pressure.check(starts=True)
    pressure.started()
    pressure.check(starts=False)
    with pytest.raises(OverloadedError):
        pressure.check(starts=True)


async def test_a_few_begin_in_one_iteration_and_refusals_do_not_wait_for_them() -> None:
    around = Around(open=MAX - 3 * Turnstile.AT_ONCE)
    pressure, began, refused = opened(around), [], []
    await pressure.look()

    async def ask(number: int) -> None:
        try:
            await pressure.enter()
        except OverloadedError:
            refused.append(number)
        else:
            began.append(number)

    asked = [asyncio.create_task(ask(number)) for number in range(MAX)]
    gone = asked[Turnstile.AT_ONCE]
    seen = []
    while len(began) < 3 * Turnstile.AT_ONCE - 1:
        await asyncio.sleep(0)
        seen.append(len(began))
        gone.cancel()
    assert len(refused) == MAX - 3 * Turnstile.AT_ONCE
    assert seen[0] == Turnstile.AT_ONCE
    assert max(after - before for before, after in pairwise(seen)) <= Turnstile.AT_ONCE
    assert began == [n for n in range(3 * Turnstile.AT_ONCE) if n != Turnstile.AT_ONCE]
    await asyncio.gather(*asked, return_exceptions=True)
