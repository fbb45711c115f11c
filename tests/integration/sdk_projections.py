"""Opens the projections of the stock SDK's thread stream; for every test that reads through it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Coroutine


async def open_all(
    thread: Any, reading: asyncio.TaskGroup, *projections: Coroutine[Any, Any, None]
) -> None:
    """Read each projection in a task, and return when the edge has let all of them in.

    One after another: the SDK replaces the stream that they share for each, and would wait for ever
    for one that it replaced before that was ready.
    """
    waiting = list(projections)
    try:
        while waiting:
            reading.create_task(waiting.pop(0))
            begun = len(projections) - len(waiting)
            while thread._shared_stream is None or len(thread._subscriptions) < begun:
                await asyncio.sleep(0.005)
            await thread._shared_stream.ready
    finally:
        for projection in waiting:
            projection.close()
