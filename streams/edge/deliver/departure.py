"""What an answer that takes its time does when its client leaves."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeVar

import structlog

from turnstream.schemas import unexpected
from turnstream.schemas.errors import TurnstreamError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from starlette.responses import Response
    from starlette.types import Receive, Send

    Leave = Callable[[], Awaitable[None]]

Result = TypeVar("Result")

_log = structlog.get_logger(__name__)


async def begin(response: Response, send: Send, first: bytes) -> None:
    """Send the headers, and `first`, so that clients and proxies see the answer begin."""
    start = {"status": response.status_code, "headers": response.raw_headers}
    await send({"type": "http.response.start", **start})
    await send({"type": "http.response.body", "body": first, "more_body": True})


@asynccontextmanager
async def until_left(
    work: Awaitable[Result], receive: Receive
) -> AsyncIterator[tuple[asyncio.Future[Result], asyncio.Future[None]]]:
    """Wait until the work is done or the client has left; give both futures.

    What is not done at the block's end is cancelled and awaited.
    """
    working: asyncio.Future[Result] = asyncio.ensure_future(work)
    leaving: asyncio.Future[None] = asyncio.create_task(_left(receive))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        yield working, leaving
    finally:
        working.cancel()
        leaving.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def leave(on_disconnect: Leave | None, path: str) -> None:
    """Do what the client of `path` asked for when it leaves; a failure is logged."""
    if on_disconnect is None:
        return
    try:
        await on_disconnect()
    except TurnstreamError as error:
        _log.warning("on_disconnect_failed", path=path, code=error.code)
    except Exception as error:  # noqa: BLE001  the client has left: nothing can be answered
        unexpected.note("edge_disconnect", error, path=path)


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
