"""Usage is counted once a turn, in a real database."""

from __future__ import annotations

import asyncio
import uuid
from typing import TYPE_CHECKING

import pytest

from turnstream.connectors.postgres.pools import ledger_pool
from turnstream.connectors.postgres.stores.usage import UsageStore
from turnstream.schemas.errors import UndecodableError
from turnstream.schemas.records.events import Usage
from turnstream.schemas.records.results import TurnResult, UsageTotal

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

HOUR_US = 3_600_000_000


def result(turn_id: str = "", at: int = 5 * HOUR_US + 7, *usage: Usage) -> TurnResult:
    turn_id = turn_id or str(uuid.uuid4())
    return TurnResult(
        event_id=f"{turn_id}-result",
        tenant="default",
        thread_id="t",
        turn_id=turn_id,
        status="completed",
        at=at,
        usage=list(usage),
    )


def tokens(model: str, count: int) -> Usage:
    return Usage(model=model, input_tokens=count, output_tokens=1)


@pytest.fixture
async def store(ledger_dsn: str) -> AsyncIterator[UsageStore]:
    async with ledger_pool(ledger_dsn, size_max=4) as pool:
        yield UsageStore(pool)


async def due(store: UsageStore) -> list[UsageTotal]:
    async with store.due(100) as totals:
        return totals


async def test_a_turn_counts_once(store: UsageStore):
    one = result("", 5 * HOUR_US + 7, tokens("m", 10), tokens("m", 5), tokens("n", 1))

    assert await store.count(one, 3600)
    assert not await store.count(one, 3600)

    m, n = await due(store)
    assert (m.model, m.turns, m.input_tokens, m.output_tokens) == ("m", 1, 15, 2)
    assert (n.model, n.turns, n.input_tokens, n.output_tokens) == ("n", 1, 1, 1)
    assert (m.window_start, m.window_s) == (5 * HOUR_US, 3600)


async def test_estimates_are_counted_apart(store: UsageStore):
    guess = Usage(model="m", input_tokens=3, output_tokens=2, estimated=True)
    assert await store.count(result("", 5 * HOUR_US, tokens("m", 10), guess), 3600)

    totals = {total.model: total.input_tokens for total in await due(store)}
    assert totals == {"m": 10, "m (estimated)": 3}


async def test_totals_are_due_until_they_are_published(store: UsageStore):
    await store.count(result("", 0, tokens("m", 1)), 3600)

    with pytest.raises(RuntimeError):
        async with store.due(10):
            raise RuntimeError("the broker is gone")
    assert len(await due(store)) == 1
    assert await due(store) == []

    await store.count(result("", 0, tokens("m", 1)), 3600)
    assert [total.turns for total in await due(store)] == [2]


async def test_two_publishers_never_hold_one_total(store: UsageStore):
    await store.count(result("", 0, tokens("m", 1)), 3600)

    async with store.due(10) as mine, store.due(10) as theirs:
        assert (len(mine), len(theirs)) == (1, 0)


async def test_windows_and_concurrent_turns(store: UsageStore):
    results = [
        result("", hour * HOUR_US, tokens("a", 1), tokens("b", 2))
        for hour in range(3)
        for _ in range(20)
    ]
    await asyncio.gather(*(store.count(one, 3600) for one in results * 2))

    totals = await due(store)

    assert {(t.window_start // HOUR_US, t.model): (t.turns, t.input_tokens) for t in totals} == {
        (hour, model): (20, 20 * each) for hour in range(3) for model, each in (("a", 1), ("b", 2))
    }


@pytest.mark.parametrize(
    "bad",
    [
        result("no-uuid", 0, tokens("m", 1)),
        result("", 0, tokens("m\x00", 1)),
        result("", 0, tokens("m", 2**63 - 1), tokens("m", 2**63 - 1)),
    ],
    ids=["turn id", "NUL in a name", "too many tokens"],
)
async def test_what_cannot_be_counted_says_so(store: UsageStore, bad: TurnResult):
    with pytest.raises(UndecodableError) as caught:
        await store.count(bad, 3600)
    assert caught.value.code == "invalid_result"
    assert await due(store) == []
