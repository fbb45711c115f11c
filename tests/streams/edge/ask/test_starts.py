"""Which streams without a cursor are shown the turn that their caller started."""

from __future__ import annotations

import asyncio

import pytest

from turnstream.streams.edge.ask.own_turns import Starts
from turnstream.streams.edge.follow.cursor import Cursor

ME = ("acme/a", "acme", "ann")
ELSE = ("acme/a", "acme", "bob")
FIRST, SECOND = Cursor(1, 9), Cursor(1, 99)


def opened(starts, *, only_lifecycle=False, resumes=False, who=ME):
    start = starts.opened(who, only_lifecycle=only_lifecycle, resumes=resumes)
    return start.cursor if start is not None else None


async def started(starts, who, cursor):
    async with starts.asking(who) as start:
        starts.began(start, cursor)


@pytest.fixture
async def starts():
    return Starts()


async def test_every_wider_stream_of_the_javascript_sdk_is_shown_the_turn(starts):
    await started(starts, ME, FIRST)
    for _ in range(3):
        assert opened(starts) == FIRST
    starts.closed(ME, only_lifecycle=False)
    await started(starts, ME, SECOND)
    assert opened(starts) == SECOND


async def test_one_watcher_is_shown_the_turn_and_a_second_one_is_a_newcomer(starts):
    await started(starts, ME, FIRST)
    assert opened(starts, only_lifecycle=True) == FIRST
    assert opened(starts) == FIRST
    assert opened(starts, only_lifecycle=True) is None
    assert opened(starts) is None


async def test_a_watcher_that_came_before_the_turn_needs_no_showing(starts):
    assert opened(starts, only_lifecycle=True) is None
    await started(starts, ME, FIRST)
    assert opened(starts, resumes=True) is None
    assert opened(starts) == FIRST
    assert opened(starts, only_lifecycle=True) is None


async def test_who_comes_after_the_listeners_left_is_a_newcomer(starts):
    await started(starts, ME, FIRST)
    assert opened(starts) == FIRST
    starts.closed(ME, only_lifecycle=False)
    assert opened(starts) is None


async def test_nobody_else_is_shown_it(starts):
    await started(starts, ME, FIRST)
    assert opened(starts, who=ELSE) is None


async def test_it_is_kept_while_somebody_listens_and_a_while_longer():
    starts = Starts(kept_s=0.05)
    await started(starts, ME, FIRST)
    assert opened(starts) == FIRST
    await asyncio.sleep(0.12)  # the time that is kept is what is tested
    assert opened(starts) == FIRST
    starts.closed(ME, only_lifecycle=False)
    starts.closed(ME, only_lifecycle=False)
    async with asyncio.timeout(60):
        while starts._starts:
            await asyncio.sleep(0.01)
    assert not starts._listening
    assert not starts._watching


async def test_asking_for_another_turn_ends_the_lingering_over_the_first(starts):
    await started(starts, ME, FIRST)
    start = starts.opened(ME, only_lifecycle=False, resumes=False)
    async with starts.asking(ELSE):
        assert not start.superseded.is_set()
    async with starts.asking(ME):
        assert start.superseded.is_set()


async def test_who_comes_after_the_end_was_shown_is_a_newcomer(starts):
    """Also while the edge has not yet noticed that the last listener left."""
    await started(starts, ME, FIRST)
    start = starts.opened(ME, only_lifecycle=False, resumes=False)
    start.over = True
    assert opened(starts) is None
    await started(starts, ME, SECOND)
    assert opened(starts) == SECOND


async def test_a_watcher_that_comes_while_a_turn_is_asked_for_is_shown_that_turn(starts):
    await started(starts, ME, FIRST)
    assert opened(starts, only_lifecycle=True) == FIRST
    starts.closed(ME, only_lifecycle=True)
    async with starts.asking(ME) as asked:
        start = starts.opened(ME, only_lifecycle=True, resumes=False)
        assert start is asked
        assert not start.known.is_set()
        starts.began(asked, SECOND)
    assert start.known.is_set()
    assert start.cursor == SECOND
    assert opened(starts, only_lifecycle=True) is None


async def test_a_turn_that_was_asked_for_in_vain_is_known_as_none(starts):
    async def ask():
        async with starts.asking(ME):
            streams.append(starts.opened(ME, only_lifecycle=True, resumes=False))
            raise ConnectionError

    streams = []
    with pytest.raises(ConnectionError):
        await ask()
    (start,) = streams
    assert start.known.is_set()
    assert start.cursor is None
    assert opened(starts) is None


async def test_a_turn_waits_for_the_streams_that_its_caller_opened_before(starts):
    starts.stand_wait_s = 60
    stands = asyncio.Event()

    async def ask():
        async with starts.asking(ME):
            assert stands.is_set()

    with starts.coming(ME, stands):
        async with starts.asking(ELSE):
            pass
        asking = asyncio.create_task(ask())
        while not starts._asked:
            await asyncio.sleep(0)
        stands.set()
        await asking
    starts.stand_wait_s = 0.05
    with starts.coming(ME, asyncio.Event()):
        async with starts.asking(ME):
            pass  # it does not wait for ever
    assert not starts._coming


async def test_a_stream_that_leaves_before_the_turn_begins_has_not_heard_it(starts):
    """As that of an earlier turn, whose socket the edge is still closing."""
    await started(starts, ME, FIRST)
    assert opened(starts) == FIRST
    async with starts.asking(ME) as asked:
        starts.closed(ME, only_lifecycle=False)
        starts.began(asked, SECOND)
    assert opened(starts) == SECOND
