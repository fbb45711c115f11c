"""Watches on the real log: ring, log, reset, slow consumers, no gap and no double."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from turnstream.schemas.records import events as ev
from turnstream.streams.edge.follow.cursor import Cursor
from turnstream.streams.edge.follow.places import Begins, Reset


async def start(edge, thread="a"):
    async with httpx.AsyncClient(base_url=edge.url, timeout=60) as client:
        body = {"id": 1, "method": "run.start", "params": {"assistant_id": "agent", "input": {}}}
        answer = await client.post(f"/threads/{thread}/commands", json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()


async def steps_of(feed, key="default/a", since=None, from_turn="", until=ev.TurnCompleted):
    got = []
    async with asyncio.timeout(60), feed.watch(key, since, from_turn) as watch:
        async for step in watch:
            if isinstance(step, Begins):
                continue
            got.append(step)
            if not isinstance(step, Reset) and isinstance(step.record, until):
                return got
    raise AssertionError(got)


def words(steps):
    return "".join(s.record.text for s in steps if isinstance(s.record, ev.TokensEmitted))


async def noise(worker, claim, count):
    """Append records of other threads to the same partition."""

    class Other:
        thread_key = "default/noise"
        partition = claim.partition

    record = ev.CustomEmitted(
        event_id="x", tenant="default", thread_id="noise", turn_id="x", epoch=1, n=1,
        name="n", payload='"' + "x" * 2000 + '"',
    )  # fmt: skip
    await asyncio.gather(*(worker.append(Other, record) for _ in range(count)))


async def test_a_watch_in_mid_turn_begins_with_the_turn(edge, worker):
    go = asyncio.Event()

    async def slow(turn):
        await turn.start()
        await turn.tokens("one two")
        await go.wait()
        await turn.tokens("three")
        await turn.end()

    worker.script = slow
    await start(edge)
    feed = edge.edge.context.feed
    watching = asyncio.create_task(steps_of(feed))
    second = asyncio.create_task(steps_of(feed))
    async with asyncio.timeout(60):
        while sum(len(thread.taps) for thread in feed.threads.values()) < 2:
            await asyncio.sleep(0.01)
    go.set()
    steps = await watching
    assert words(steps) == "one two three "
    assert [s.offset for s in steps] == [s.offset for s in await second]
    assert not feed.threads


async def test_watches_that_begin_while_records_come_miss_and_double_nothing(edge, worker):
    async def talk(turn):
        await turn.start()
        await turn.tokens(" ".join(str(n) for n in range(300)))
        await turn.end()

    worker.script = talk
    await start(edge)
    feed = edge.edge.context.feed
    watches = []
    for _ in range(20):
        watches.append(asyncio.create_task(steps_of(feed, since=Cursor(1, -1))))
        await asyncio.sleep(0)
    whole = "".join(f"{n} " for n in range(300))
    for steps in await asyncio.gather(*watches):
        assert words(steps) == whole
        offsets = [step.offset for step in steps]
        assert offsets == sorted(set(offsets))


@pytest.mark.parametrize("known", [False, True], ids=["new", "quiet"])
async def test_who_has_no_cursor_is_told_where_the_stream_begins(edge, worker, known):
    """Cut off before the first step, it comes back with that and misses nothing."""
    feed = edge.edge.context.feed
    if known:
        await start(edge)
        await steps_of(feed, since=Cursor(1, -1))
    async with asyncio.timeout(60), feed.watch("default/a") as watch:
        begins = await anext(aiter(watch))
    assert isinstance(begins, Begins)
    turn = (await start(edge))["result"]["run_id"]
    async with asyncio.timeout(60):
        while len(worker.turns) <= known:
            await asyncio.sleep(0.01)
    steps = await steps_of(feed, since=begins.cursor)
    assert words(steps) == "hello world "
    assert {step.record.turn_id for step in steps} == {turn}


async def test_in_mid_turn_the_stream_begins_before_the_turn(edge, worker):
    go = asyncio.Event()

    async def slow(turn):
        await turn.start()
        await turn.tokens("one")
        await go.wait()
        await turn.end()

    await start(edge)
    feed = edge.edge.context.feed
    await steps_of(feed, since=Cursor(1, -1))
    worker.script = slow
    await start(edge)
    async with asyncio.timeout(60), feed.watch("default/a") as watch:
        reading = aiter(watch)
        begins, first = await anext(reading), await anext(reading)
    assert begins.cursor == Cursor(1, first.offset - 1)
    assert isinstance(first.record, ev.AttemptStarted)
    go.set()
    assert words(await steps_of(feed, since=begins.cursor)) == "one "


async def test_from_a_turn_that_ends_while_its_beginning_is_looked_for(edge, worker):
    """The ledger does not know yet where it began; its end is in the log before the reader is."""
    go = asyncio.Event()

    async def slow(turn):
        await turn.start()
        await turn.tokens("one two")
        await go.wait()
        await turn.end()

    worker.script = slow
    turn_id = (await start(edge))["result"]["run_id"]
    feed = edge.edge.context.feed
    ledger = feed.catch_up.places

    class Earlier:
        """What the ledger said a moment ago."""

        async def place(self, key):
            found = await ledger.place(key)
            self.start = await ledger.start_of(key, turn_id)
            go.set()
            await worker.idle()
            return found

        async def start_of(self, _key, _turn_id):
            return self.start

    feed.catch_up.places = Earlier()
    try:
        assert words(await steps_of(feed, from_turn=turn_id)) == "one two "
    finally:
        feed.catch_up.places = ledger


async def test_from_a_turn_that_is_over(edge, worker):
    first = (await start(edge))["result"]["run_id"]
    feed = edge.edge.context.feed
    await steps_of(feed, from_turn=first)
    await start(edge)
    steps = await steps_of(feed, from_turn=first)
    assert {step.record.turn_id for step in steps} == {first}
    assert words(steps) == "hello world "


async def test_what_the_ring_no_longer_holds_comes_from_the_log(settings, open_running, worker):
    small = settings.model_copy(update={"ring_bytes_max": 1 << 20, "edge_warm_s": 0})
    async with open_running(small) as edge:
        await start(edge)
        feed = edge.edge.context.feed
        claim = worker.turns[0].claim
        before = await steps_of(feed, since=Cursor(1, -1))
        await noise(worker, claim, 1500)
        tail = edge.edge.tail
        async with asyncio.timeout(60):
            while tail.held(claim.partition, b"default/a", before[0].offset) is not None:
                await asyncio.sleep(0.01)
        after = await steps_of(feed, since=Cursor(1, -1))
        assert [s.offset for s in after] == [s.offset for s in before]
        assert words(after) == "hello world "
        assert tail.ring_bytes <= 1 << 20
    async with open_running(small) as edge:  # a new edge, its ring empty
        after = await steps_of(edge.edge.context.feed, since=Cursor(1, -1))
        assert words(after) == "hello world "


@pytest.mark.parametrize(
    "cursor", [Cursor(2, 3), Cursor(1, 1 << 30), Cursor(0, 5)], ids=["other", "past", "older"]
)
async def test_a_cursor_of_another_log_is_reset(edge, worker, cursor):
    await start(edge)
    feed = edge.edge.context.feed
    await steps_of(feed, since=Cursor(1, -1))
    async with asyncio.timeout(60), feed.watch("default/a", cursor) as watch:
        first = await anext(aiter(watch))
    assert isinstance(first, Reset)
    assert first.cursor.incarnation == 1


async def test_a_cursor_before_the_logs_start_is_reset(edge, worker, kafka, settings):
    from aiokafka import TopicPartition
    from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete

    await start(edge)
    feed = edge.edge.context.feed
    await steps_of(feed, since=Cursor(1, -1))
    claim = worker.turns[0].claim
    await start(edge)
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka)
    await admin.start()
    place = TopicPartition(settings.topics.events, claim.partition)
    await admin.delete_records({place: RecordsToDelete(before_offset=5)})
    await admin.close()
    # what the ring still holds it may still give
    edge.edge.tail._followed.ring.restart(claim.partition, edge.edge.tail.end(claim.partition))
    async with asyncio.timeout(60), feed.watch("default/a", Cursor(1, 1)) as watch:
        assert isinstance(await anext(aiter(watch)), Reset)


async def test_a_slow_watch_loses_its_queue_and_nothing_else(edge, worker):
    go = asyncio.Event()

    async def talk(turn):
        await turn.start()
        await go.wait()
        await turn.tokens(" ".join(str(n) for n in range(200)))
        await turn.end()

    worker.script = talk
    await start(edge)
    feed = edge.edge.context.feed
    feed.watch_steps_max = 10
    got = []

    async def let_go():
        while not any(thread.taps for thread in feed.threads.values()):
            await asyncio.sleep(0.01)
        go.set()

    letting = asyncio.create_task(let_go())
    async with asyncio.timeout(60), feed.watch("default/a") as watch:
        async for step in watch:
            if isinstance(step, Begins):
                continue
            got.append(step)
            while len(got) == 2 and feed.refills == 0:  # until it has fallen behind
                await asyncio.sleep(0.01)
            if isinstance(step.record, ev.TurnCompleted):
                break
    await letting
    assert feed.refills
    assert words(got) == "".join(f"{n} " for n in range(200))
    offsets = [step.offset for step in got]
    assert offsets == sorted(offsets)


async def test_records_that_nobody_can_read_stop_nobody(edge, worker):
    async def odd(turn):
        await turn.start()
        await worker.producer.send_and_wait(
            worker.settings.topics.events,
            b"\xff\x00 garbage",
            key=turn.claim.thread_key.encode(),
            partition=turn.claim.partition,
        )
        await turn.tokens("fine")
        await turn.end()

    worker.script = odd
    await start(edge)
    assert words(await steps_of(edge.edge.context.feed, since=Cursor(1, -1))) == "fine "


async def test_an_ended_turns_late_records_show_nothing(edge, worker):
    """A frozen worker of the first turn says something while the second runs."""
    await start(edge)
    old = worker.turns[0]
    go = asyncio.Event()

    async def slow(turn):
        await turn.start()
        await go.wait()
        await turn.tokens("new")
        await turn.end()

    worker.script = slow
    await start(edge)
    feed = edge.edge.context.feed
    watching = asyncio.create_task(steps_of(feed))
    async with asyncio.timeout(60):
        while not any(thread.taps for thread in feed.threads.values()):
            await asyncio.sleep(0.01)
    await old.tokens("zombie", "old")
    go.set()
    steps = await watching
    assert words(steps) == "new "
