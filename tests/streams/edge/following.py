"""Clients that read on, and turns of thread `a` for them."""

from __future__ import annotations

import asyncio
import uuid
from contextlib import asynccontextmanager, suppress

from turnstream.schemas.records.commands import CancelTurn, StartTurn
from turnstream.streams.edge.follow.places import Begins, Reset

THREAD = {"tenant": "default", "thread_id": "a"}
KEY = "default/a"


async def until(condition):
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.01)


async def run(worker, script=None):
    """Start a turn, and wait for its script's end."""
    if script is not None:
        worker.script = script
    count = len(worker.turns)
    await worker.ask(StartTurn(**THREAD, turn_id=str(uuid.uuid4()), text="hi"))
    await until(lambda: len(worker.turns) > count)
    await worker.idle()
    return worker.turns[-1]


async def cancelled_before_it_came(worker):
    """Let a turn end unclaimed; returns its end, which is in the log."""
    count = len(worker.ended)
    turn_id = str(uuid.uuid4())
    await worker.ask(CancelTurn(**THREAD, turn_id=turn_id))
    await worker.ask(StartTurn(**THREAD, turn_id=turn_id, text="hi"))
    await until(lambda: len(worker.ended) > count)
    return worker.ended[-1]


class Following:
    """A client that reads on."""

    def __init__(self, feed, cursor=None):
        self.items = []
        self.watch = feed.watch(KEY, cursor)
        self._feed = feed

    async def _read(self):
        async with self.watch as watch:
            async for item in watch:
                self.items.append(item)

    @asynccontextmanager
    async def reading(self):
        task = asyncio.create_task(self._read())
        try:
            await until(lambda: self.watch.live)
            yield self
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def to(self, offset):
        """Wait until the edge has read the log to there and this client was told."""
        await until(lambda: any(self._feed.log.end(part) > offset for part in range(3)))
        await until(lambda: self.watch.live and not self.watch._queue)

    @property
    def steps(self):
        return [item for item in self.items if not isinstance(item, Begins)]


def what(items):
    """Name what was shown."""
    return ["reset" if isinstance(i, Reset) else type(i.record).__name__ for i in items]


async def hello(turn):
    await turn.start()
    await turn.message("hello world")
    await turn.end(text="hello world ")


async def texts_of(thread):
    """Return each text of an SDK's thread, or its error; the iterator feeds the messages."""

    async def read(message):
        try:
            return await message.text
        except RuntimeError as error:
            return str(error)

    async with asyncio.timeout(60):
        reads = [asyncio.create_task(read(message)) async for message in thread.messages]
        return await asyncio.gather(*reads)
