"""Waiting for Postgres before a stream that is being opened is refused."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, TypeVar

from turnstream.schemas.errors import DatabaseUnavailableError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

ANSWER_WAIT_S = 4.0
"""How long a stream that is being opened waits for Postgres. A stock SDK gives a stream up after
six tries, which take a third of a second if each is refused at once; and it waits 5 s for one to
open (langgraph-sdk 0.4, `_run_lifecycle_watcher`)."""
_ASK_AGAIN_S = 0.1
_Answer = TypeVar("_Answer")


async def patiently(read: Callable[[], Awaitable[_Answer]]) -> _Answer:
    """Read, and read again while Postgres does not answer.

    Raises `DatabaseUnavailableError` if it does not answer within `ANSWER_WAIT_S`.
    """
    deadline = time.monotonic() + ANSWER_WAIT_S
    while True:
        try:
            return await read()
        except DatabaseUnavailableError:
            if time.monotonic() + _ASK_AGAIN_S > deadline:
                raise
        await asyncio.sleep(_ASK_AGAIN_S)
