"""Surfaces: what readers of one kind are shown of a thread, rendered only while a client asks.

A surface is a pure projection of a thread's changes. There are two ways to read one:

- `follow`: one reader at its own pace, with a surface of its own;
- `Thread.join`: a surface that its readers at this edge share, rendered once a record.
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
    """A pure projection of one thread; `apply` is called with every change, in log order."""

    def apply(self, change: Change) -> Sequence[Shown_co]:
        """Return what the change shows, in order; at most `RECORD_EVENTS_MAX` have own cursors."""
        ...


class Surface(Projects[Shown_co], Protocol[Shown_co]):
    """A projection that also shows where its stream begins."""

    def opened(self) -> Sequence[Shown_co]:
        """Return what a reader without a cursor is shown first, at the cursor of its beginning."""
        ...

    def reset(self, *, alive: bool) -> Sequence[Shown_co]:
        """Return what a reader is shown when its earlier events are void; see `places.Reset`."""
        ...


async def follow(
    feed: Feed,
    key: str,
    surface: Callable[[], Surface[Shown]],
    after: Cursor | None = None,
    from_turn: str = "",
) -> AsyncGenerator[tuple[int, Shown], None]:
    """Yield what a surface shows of a thread after a cursor, each with the `seq` of its cursor.

    Without a cursor it begins with the turn `from_turn`, or with the turn that is alive; see
    `CatchUp.missed`. `surface` makes a surface that has seen nothing.
    """
    projection = surface()
    last, newcomer = -1, after is None
    # the projection also sees what is before the cursor, so that a message that ends later is whole
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
    """Return what a step shows; nothing if its record makes the projection raise.

    A writer to the topic can write events whose fields hold anything.
    """
    try:
        return projection.apply(step.change)
    except Exception as error:  # noqa: BLE001  one record must not end its thread's readers
        note("edge_surface", error, surface=type(projection).__name__, offset=step.offset)
        return ()


class Projected(Generic[Shown]):
    """A projection along one reader; it begins anew at a step that voids what was shown."""

    def __init__(self, make: Callable[[], Projects[Shown]]) -> None:
        self._make = make
        self._projection: Projects[Shown] | None = None

    def see(self, step: Step) -> Sequence[Shown]:
        """Take a step; return what it shows."""
        projection = self._projection
        if projection is None or step.voids:
            projection = self._projection = self._make()
        return shown(projection, step)


class Shared(Generic[Shown]):
    """A projection of live steps, shared by the readers at this edge that ask for it.

    A tap is called with what a step shows, and with None when it has to catch up anew.
    """

    def __init__(self, projected: Projected[Shown]) -> None:
        self._projected = projected
        self.taps: list[Callable[[Sequence[Shown] | None], None]] = []

    def take(self, step: Step | None) -> None:
        """Call every tap. The hot path of fan-out."""
        events = None if step is None else self._projected.see(step)
        if events is None or events:
            # a tap may leave while it is called
            for tap in tuple(self.taps):
                tap(events)
