"""Which streams without a cursor are shown the turn that their caller started."""

from __future__ import annotations

import asyncio

import pytest

from turnstream.streams.edge.cursor import Cursor
from turnstream.streams.edge.starts import Starts

ME = ("acme/a", "acme", "ann")
ELSE = ("acme/a", "acme", "bob")
FIRST, SECOND = Cursor(1, 9), Cursor(1, 99)


def opened(starts, *, only_lifecycle=False, resumes=False, who=ME):
    start = starts.opened(who, only_lifecycle=only_lifecycle, resumes=resumes)
    return start.cursor if start is not None else None


@pytest.fixture
async def starts():
    return Starts()


async def test_every_wider_stream_of_the_javascript_sdk_is_shown_the_turn(starts):
    starts.started(ME, FIRST)
    for _ in range(3):
        assert opened(starts) == FIRST
    starts.closed(ME, only_lifecycle=False)
    starts.started(ME, SECOND)
    assert opened(starts) == SECOND


async def test_one_watcher_is_shown_the_turn_and_a_second_one_is_a_newcomer(starts):
    starts.started(ME, FIRST)
    assert opened(starts, only_lifecycle=True) == FIRST
    assert opened(starts) == FIRST
    assert opened(starts, only_lifecycle=True) is None
    assert opened(starts) is None


async def test_a_watcher_that_came_before_the_turn_needs_no_showing(starts):
    assert opened(starts, only_lifecycle=True) is None
    starts.started(ME, FIRST)
    assert opened(starts, resumes=True) is None
    assert opened(starts) == FIRST
    assert opened(starts, only_lifecycle=True) is None


async def test_who_comes_after_the_listeners_left_is_a_newcomer(starts):
    starts.started(ME, FIRST)
    assert opened(starts) == FIRST
    starts.closed(ME, only_lifecycle=False)
    assert opened(starts) is None


async def test_nobody_else_is_shown_it(starts):
    starts.started(ME, FIRST)
    assert opened(starts, who=ELSE) is None


async def test_it_is_kept_while_somebody_listens_and_a_while_longer():
    starts = Starts(kept_s=0.05)
    starts.started(ME, FIRST)
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
    starts.started(ME, FIRST)
    start = starts.opened(ME, only_lifecycle=False, resumes=False)
    starts.starting(ELSE)
    assert not start.superseded.is_set()
    starts.starting(ME)
    assert start.superseded.is_set()


async def test_who_comes_after_the_end_was_shown_is_a_newcomer(starts):
    """Also while the edge has not yet noticed that the last listener left."""
    starts.started(ME, FIRST)
    start = starts.opened(ME, only_lifecycle=False, resumes=False)
    start.over = True
    assert opened(starts) is None
    starts.started(ME, SECOND)
    assert opened(starts) == SECOND
