"""Surfaces: what kinds of readers are shown of a thread, rendered only for those who ask for it.

A surface is a pure projection of the changes that a thread's records are (`feed`, `watch`), which
themselves render nothing. Two ways to read one:

- `follow`: one reader at its own pace, with a surface of its own;
- `Thread.join`: a surface that all its readers at this edge share, rendered once a record.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from turnstream.schemas.unexpected import note
from turnstream.streams.edge.follow.cursor import RECORD_EVENTS_MAX, Cursor, first_seq
from turnstream.streams.edge.follow.places import Begins, Reset

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence

    from turnstream.schemas.fold.fold import Change
    from turnstream.streams.edge.follow.feed import Feed
    from turnstream.streams.edge.follow.reader import Step

Shown = TypeVar("Shown")
Shown_co = TypeVar("Shown_co", covariant=True)


class Projects(Protocol[Shown_co]):
    """A pure projection of one thread; it is fed every change of one fold, in log order."""

    def apply(self, change: Change) -> Sequence[Shown_co]:
        """Return what the change shows, in order; at most `RECORD_EVENTS_MAX` have own cursors."""
        ...


class Surface(Projects[Shown_co], Protocol[Shown_co]):
    """A projection that also says where its stream stands."""

    def opened(self) -> Sequence[Shown_co]:
        """Return what a reader without a cursor is shown first; its cursor is the beginning's."""
        ...

    def reset(self, *, alive: bool) -> Sequence[Shown_co]:
        """Return what a reader is shown whose earlier events are void; see `places.Reset`."""
        ...


async def follow(
    feed: Feed,
    key: str,
    surface: Callable[[], Surface[Shown]],
    after: Cursor | None = None,
    from_turn: str = "",
) -> AsyncGenerator[tuple[int, Shown], None]:
    """Yield what a surface shows of a thread behind a cursor, each with its own cursor's number.

    Without a cursor it begins with `from_turn`, or with the turn that is alive; see
    `CatchUp.missed`. `surface` makes a surface that has seen nothing.
    """
    projection = surface()
    last, newcomer = -1, after is None
    # the projection has to see what was before the cursor: a message that ends after it is whole
    async with feed.watch(key, after, from_turn, whole_turn=True) as watch:
        async for step in watch:
            if isinstance(step, Begins):
                for event in projection.opened() if newcomer else ():
                    yield step.cursor.seq, event
                continue
            if isinstance(step, Reset):
                projection, after = surface(), None
                for event in projection.reset(alive=step.alive):
                    yield step.cursor.seq, event
                continue
            if step.offset <= last:  # a watch that fell behind repeats where it goes on
                continue
            last = step.offset
            first = first_seq(feed.incarnation, step.offset)
            for k, event in enumerate(shown(projection, step)):
                seq = first + min(k, RECORD_EVENTS_MAX - 1)
                if after is None or seq > after.seq:
                    yield seq, event


def shown(projection: Projects[Shown], step: Step) -> Sequence[Shown]:
    """Return what a step shows; nothing where its record makes the projection raise.

    Anybody who may write to the topic can write an event whose fields hold anything.
    """
    try:
        return projection.apply(step.change)
    except Exception as error:  # noqa: BLE001  one record must not end its thread's readers
        note("edge_surface", error, surface=type(projection).__name__, offset=step.offset)
        return ()


class Projected(Generic[Shown]):
    """A projection along one reader; it begins anew where a step voids what was shown."""

    def __init__(self, make: Callable[[], Projects[Shown]]) -> None:
        self._make = make
        self._projection: Projects[Shown] | None = None

    def see(self, step: Step) -> Sequence[Shown]:
        """Take in a step; returns what it shows."""
        projection = self._projection
        if projection is None or step.voids:
            projection = self._projection = self._make()
        return shown(projection, step)


class Shared(Generic[Shown]):
    """A projection of what is live, for all readers here that ask for it.

    A tap is called with what a step shows, and with None where it has to catch up anew.
    """

    def __init__(self, projected: Projected[Shown]) -> None:
        self._projected = projected
        self.taps: list[Callable[[Sequence[Shown] | None], None]] = []

    def take(self, step: Step | None) -> None:
        """Tell every tap. The hot path of fan-out."""
        events = None if step is None else self._projected.see(step)
        if events is None or events:
            # a tap may leave while it is told
            for tap in tuple(self.taps):
                tap(events)
