"""A thread's steps for one consumer that takes them at its own pace."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING

from turnstream.streams.edge.follow.cursor import Cursor

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator
    from types import TracebackType
    from typing import Self

    from turnstream.streams.edge.follow.feed import Feed
    from turnstream.streams.edge.follow.places import Begins, Reset
    from turnstream.streams.edge.follow.reader import Step
    from turnstream.streams.edge.follow.thread import Thread


class Watch:
    """Steps of one thread, in log order, each once: `async with`, then `async for`.

    Yields a `Begins` first if there is no cursor, `Step`s, and a `Reset` if the cursor is void. See
    `CatchUp.missed` for where it begins. A consumer that falls `watch_steps_max` behind loses its
    queue and catches up from ring or log; it sees the same steps, later. `live` is true while there
    is nothing to catch up with.
    """

    def __init__(
        self, feed: Feed, key: str, since: Cursor | None, from_turn: str, *, whole_turn: bool
    ) -> None:
        self._feed = feed
        self._key = key
        self._since = since
        self._from_turn = from_turn
        self._whole_turn = whole_turn
        self._hold = feed.hold(key)
        self._thread: Thread | None = None
        self._queue: deque[Step] = deque()
        self._wake = asyncio.Event()
        self._behind = False
        self.live = False

    async def __aenter__(self) -> Self:
        self._thread = self._hold.__enter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._leave()
        self._hold.__exit__(None, None, None)

    def __aiter__(self) -> AsyncIterator[Step | Reset | Begins]:
        return self._steps()

    async def _steps(self) -> AsyncGenerator[Step | Reset | Begins, None]:
        thread = self._thread
        if thread is None:
            raise RuntimeError("enter the watch before reading it")
        since, from_turn, whole_turn = self._since, self._from_turn, self._whole_turn
        attach = partial(thread.attach, self._tap)
        while True:
            self._behind = False
            last = -1
            missed = self._feed.catch_up.missed(
                thread, _same, attach, since, from_turn, whole_turn=whole_turn
            )
            async with aclosing(missed):
                async for item in missed:
                    if not isinstance(item, list):
                        last = item.cursor.offset
                        yield item
                        continue
                    for step in item:
                        last = step.offset
                        yield step
            if last < 0:
                last = self._feed.end_of(thread) - 1
            self.live = True
            while not self._behind:
                if self._queue:
                    step = self._queue.popleft()
                    last = step.offset
                    yield step
                else:
                    self._wake.clear()
                    await self._wake.wait()
            self.live = False
            since, from_turn, whole_turn = Cursor(self._feed.incarnation, last), "", False

    def _tap(self, step: Step | None) -> None:
        if step is None or len(self._queue) >= self._feed.watch_steps_max:
            self._behind = True
            self._queue.clear()
            self._feed.refills += 1
            self._leave()
        else:
            self._queue.append(step)
        self._wake.set()

    def _leave(self) -> None:
        if self._thread is not None and self._tap in self._thread.taps:
            self._thread.taps.remove(self._tap)


def _same(step: Step) -> Step:
    return step
