"""`asyncio.wait_for` of Python 3.12, for 3.11.

In Python 3.11 `wait_for` runs what it waits for in a task of its own. `ChatOpenAI` waits so for
each chunk. That costs a task for each token, and each answer ends with a cycle (task, exception,
traceback, frame) that holds all of the turn's objects until a full garbage collection. In 3.12
`wait_for` awaits in the same task.
"""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable

_before = asyncio.wait_for


async def wait_for(fut: Awaitable[Any], timeout: float | None) -> Any:  # noqa: ASYNC109  its name
    """Wait for `fut`, at most `timeout` seconds; raises `TimeoutError` and cancels it then."""
    if timeout is not None and timeout <= 0:
        return await _before(fut, timeout)
    async with asyncio.timeout(timeout):
        return await fut


def install() -> None:
    """Replace `asyncio.wait_for` where Python is older than 3.12."""
    if sys.version_info < (3, 12):
        asyncio.wait_for = asyncio.tasks.wait_for = wait_for  # type: ignore[assignment]
