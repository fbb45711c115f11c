"""Turns that a caller started on this edge a moment ago, for streams that open without a cursor.

The SDKs open streams after `run.start`, when a quick turn may be over. They expect different things
of a stream without `since`:

- The Python SDK opens one stream of lifecycle events only: before the turn on a thread that it was
  given, after the turn on a thread that it named itself. Its other streams have `since`. A second
  stream of lifecycle events only is a newcomer; it would take an older turn's end for its own.
- The JavaScript SDK never sends `since`. For each projection it opens a wider stream (or one more
  subscription) and expects the turn from its start. It drops events that it has seen, by their ids.
  It stops reading at the turn's end, although events of other projections may follow, so an end is
  held back until the stream has stood for `LINGER_S`.

Neither SDK waits for a stream to stand before it starts a turn. So a stream that opens while a turn
is being started is shown that turn. A turn is started only when the caller's earlier streams know
where they begin, because a turn that ends before that would be past for them.

Knows no socket: listeners are (thread key, tenant, user).
"""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from turnstream.streams.edge.follow.cursor import Cursor

Listener = tuple[str, str, str]

# how long after its start, and after its last listener left, a turn is shown to streams that come
KEPT_S = 10.0
# how long a stream that came after the start must have stood before it shows the end
LINGER_S = 0.2
# how long a turn waits for its caller's earlier streams, and a later one until it has begun
STAND_WAIT_S = 1.0


@dataclass(slots=True, eq=False)
class Start:
    """A turn's start: `cursor` stands before its first record.

    It is None until `known` is set, and stays so for one that was asked for in vain, or that waits
    behind another turn. `watched`: a stream of lifecycle events only has it. `heard`: any stream
    has it.
    `over`: a stream that opened after it has shown its end, so a later stream is a newcomer.
    `superseded` is set when the caller asks for another turn on the thread.
    """

    listener: Listener
    cursor: Cursor | None = None
    known: asyncio.Event = field(default_factory=asyncio.Event)
    watched: bool = False
    heard: bool = False
    over: bool = False
    superseded: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(slots=True)
class Starts:
    """The latest start of each caller on each thread, and how many of its streams listen there."""

    kept_s: float = KEPT_S
    stand_wait_s: float = STAND_WAIT_S
    _asked: dict[Listener, Start] = field(default_factory=dict)
    _starts: dict[Listener, Start] = field(default_factory=dict)
    _listening: Counter[Listener] = field(default_factory=Counter)
    _watching: Counter[Listener] = field(default_factory=Counter)
    _coming: dict[Listener, set[asyncio.Event]] = field(default_factory=dict)

    @asynccontextmanager
    async def asking(self, listener: Listener) -> AsyncIterator[Start]:
        """Announce a turn that a caller is about to start; then call `began` with its place.

        Waits `stand_wait_s` at most for streams that the caller opened before.
        """
        if (before := self._starts.get(listener)) is not None:
            before.superseded.set()
        start = self._asked[listener] = Start(listener)
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(self.stand_wait_s):
                    for stands in tuple(self._coming.get(listener, ())):
                        await stands.wait()
            yield start
        finally:
            if self._asked.get(listener) is start:
                del self._asked[listener]
            start.known.set()

    def began(self, start: Start, cursor: Cursor) -> None:
        """Remember a turn that a caller started; its open streams receive the turn as it comes."""
        start.cursor = cursor
        start.watched = start.watched or start.listener in self._watching
        start.heard = start.heard or start.listener in self._listening
        start.known.set()
        self._starts[start.listener] = start
        self._expire_later(start)

    @contextmanager
    def coming(self, listener: Listener, stands: asyncio.Event) -> Iterator[None]:
        """Let the caller's next turn wait for a stream until it `stands`."""
        streams = self._coming.setdefault(listener, set())
        streams.add(stands)
        try:
            yield
        finally:
            stands.set()
            streams.discard(stands)
            if not streams and self._coming.get(listener) is streams:
                del self._coming[listener]

    def opened(self, listener: Listener, *, only_lifecycle: bool, resumes: bool) -> Start | None:
        """Note that a stream was opened; return the start that it is to be shown.

        None for one that `resumes` from a cursor of its own, and for a newcomer: with it what was
        started before is past.
        """
        start = None if resumes else self._shown(listener, only_lifecycle=only_lifecycle)
        self._listening[listener] += 1
        self._watching[listener] += only_lifecycle
        return start

    def _shown(self, listener: Listener, *, only_lifecycle: bool) -> Start | None:
        asked = self._asked.get(listener)
        if asked is not None:
            return asked
        start = self._starts.get(listener)
        if start is None:
            return None
        left = start.heard and listener not in self._listening
        if left or start.over or (only_lifecycle and start.watched):
            del self._starts[listener]
            return None
        start.heard = True
        start.watched = start.watched or only_lifecycle
        return start

    def closed(self, listener: Listener, *, only_lifecycle: bool) -> None:
        """Note that a stream is gone."""
        self._listening[listener] -= 1
        self._watching[listener] -= only_lifecycle
        for counter in (self._listening, self._watching):
            if counter[listener] <= 0:
                del counter[listener]

    def _expire_later(self, start: Start) -> None:
        asyncio.get_running_loop().call_later(self.kept_s, self._expire, start)

    def _expire(self, start: Start) -> None:
        if self._starts.get(start.listener) is not start:
            return
        if start.listener in self._listening:
            self._expire_later(start)
        else:
            del self._starts[start.listener]
