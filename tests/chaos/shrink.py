"""The shortest story that still breaks something: turns and faults are dropped while it does."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from tests.chaos.story import Story

TRIES = 3
"""A story that passes so often in a row is taken for one that breaks nothing."""


async def shortest(
    story: Story, breaks: Callable[[Story], Awaitable[bool]], *, until: float
) -> Story | None:
    """Return the shortest story found before the time (monotonic); None if it broke nothing again.

    `breaks` plays a story once and tells whether an invariant was broken.
    """
    if not await _again(story, breaks, until):
        return None
    smaller = True
    while smaller:
        smaller = False
        for candidate in _smaller(story):
            if time.monotonic() > until:
                return story
            if await _again(candidate, breaks, until):
                story, smaller = candidate, True
                break
    return story


async def _again(story: Story, breaks: Callable[[Story], Awaitable[bool]], until: float) -> bool:
    for _ in range(TRIES):
        if time.monotonic() > until:
            return False
        if await breaks(story):
            return True
    return False


def _smaller(story: Story) -> Iterator[Story]:
    """Yield the story with one part less, the larger parts first."""
    for index in range(len(story.turns)):
        if len(story.turns) > 1:
            yield story.without_turn(index)
    for index in range(len(story.blows)):
        yield story.without_blow(index)
    for index, turn in enumerate(story.turns):
        if turn.by != "kafka":
            turns = list(story.turns)
            turns[index] = replace(turn, by="kafka")
            yield replace(story, turns=tuple(turns))
