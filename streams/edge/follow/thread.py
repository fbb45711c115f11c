"""One thread as this edge follows it: a live reader, and the taps that it feeds.

The reader decodes and folds each record once for all taps. It renders nothing: a surface says what
a change shows, see `surface`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from turnstream.schemas.errors import UndecodableError
from turnstream.schemas.unexpected import note
from turnstream.streams.edge.follow.surface import Shared

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

    from turnstream.streams.edge.follow.expectation import Expectation
    from turnstream.streams.edge.follow.reader import Decoder, Reader, Step
    from turnstream.streams.edge.follow.surface import Projected, Shown


class Thread:
    """A watched thread: one live reader, and the taps that it feeds.

    A tap is called with each step, and with None when it has to catch up anew. `first_seen` is the
    offset of the first record that came before there was a reader. `surfaces` are the projections
    that readers of live records share, by name.
    """

    def __init__(self, key: str, decoder: Decoder) -> None:
        self.key = key
        self.raw_key = key.encode("utf-8", "surrogatepass")
        self.partition: int | None = None
        self.reader: Reader | None = None
        self.first_seen: int | None = None
        self._timeline = 0
        self.taps: list[Callable[[Step | None], None]] = []
        self.surfaces: dict[Hashable, Shared[Any]] = {}
        self.expected: list[Expectation] = []
        self.holders = 0
        self._decoder = decoder

    def sink(self, partition: int, offset: int, value: bytes) -> None:
        """Take a record and call every tap; never raises, because all threads share the tail."""
        try:
            self._take(partition, offset, value)
        except Exception as error:  # noqa: BLE001  one bad record must not stop the edge
            note("edge_feed", error, thread=self.key, partition=partition, offset=offset)

    def _take(self, partition: int, offset: int, value: bytes) -> None:
        if self.expected:
            self._meet(offset, value)
        if self.reader is None:
            if self.first_seen is None:
                self.partition, self.first_seen = partition, offset
            return
        timeline = self.reader.timeline
        step = self.reader.take(offset, value)
        if step is None:
            return
        if step.voids:
            self.lost()
            self._timeline, self.first_seen = timeline, offset
            return
        # a tap may leave while it is called
        for tap in tuple(self.taps):
            tap(step)

    def attach(
        self, tap: Callable[[Step | None], None], reader: Reader, partition: int | None
    ) -> None:
        """Call a tap with each step from now on; `reader` has read every record so far."""
        if self.reader is None:
            self.reader, self.first_seen = reader, None
            self.partition = partition
        self.taps.append(tap)

    def join(
        self,
        name: Hashable,
        projected: Projected[Shown],
        tap: Callable[[Sequence[Shown] | None], None],
        reader: Reader,
        partition: int | None,
    ) -> None:
        """Call a tap with what a surface shows of each step from now on.

        `projected` has seen every step of `reader`. It is dropped if the surface is live already,
        because two projections that saw the same turns from their beginnings show the same.
        """
        shared = self.surfaces.get(name)
        if shared is None:
            shared = self.surfaces[name] = Shared(projected)
            self.attach(shared.take, reader, partition)
        shared.taps.append(tap)

    def leave(self, name: Hashable, tap: Callable[[Sequence[Shown] | None], None]) -> None:
        """Stop calling a tap of a surface; a surface without taps is no longer rendered."""
        shared = self.surfaces.get(name)
        if shared is None or tap not in shared.taps:
            return
        shared.taps.remove(tap)
        if not shared.taps:
            del self.surfaces[name]
            self.taps.remove(shared.take)

    def missing(self, partition: int) -> None:
        """Send every tap back to catch up if the thread may lie in a partition with a gap."""
        if self.partition in {None, partition}:
            self.lost()

    def lost(self) -> None:
        """Send every tap back to catch up: records are missing, or what was shown is void."""
        self._timeline, self.reader = self.timeline, None
        for tap in tuple(self.taps):
            tap(None)

    @property
    def timeline(self) -> int:
        """Return the timeline of what watchers were shown so far, 0 if it is unknown."""
        return self._timeline if self.reader is None else self.reader.timeline

    def _meet(self, offset: int, value: bytes) -> None:
        try:
            record = self._decoder.decode(value)
        except UndecodableError:
            return
        except Exception as error:  # noqa: BLE001  one bad record must not stop the edge
            note("edge_expect", error, thread=self.key, offset=offset)
            return
        for expectation in tuple(self.expected):
            expectation.meet(offset, record)
