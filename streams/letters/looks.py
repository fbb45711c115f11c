"""How many callers look into the topic of dead letters at the same time."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING

from turnstream.schemas.errors import TooManyRequestsError
from turnstream.streams.replay.log import Log

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

OpenLog = Callable[[], AbstractAsyncContextManager[Log]]

READERS_PER_TENANT_MAX = 4
"""Looks into the topic by callers of one tenant at the same time; one more gets 429."""

READERS_MAX = 16
"""Looks of all tenants; each is a Kafka consumer of its own. One more waits within its budget."""


class Looks:
    """Opens readers within the bounds; `open_log` opens one."""

    def __init__(self, open_log: OpenLog) -> None:
        self._open_log = open_log
        self._readers: Counter[str] = Counter()
        self._room = asyncio.Semaphore(READERS_MAX)

    @asynccontextmanager
    async def open(self, caller: str) -> AsyncIterator[Log]:
        """Give a reader of Kafka; raises `TooManyRequestsError` (`letters_busy`)."""
        if self._readers[caller] >= READERS_PER_TENANT_MAX:
            raise TooManyRequestsError(
                f"your tenant looks at the dead letters {READERS_PER_TENANT_MAX} times already",
                code="letters_busy",
            )
        self._readers[caller] += 1
        try:
            async with self._room, self._open_log() as log:
                yield log
        finally:
            self._readers[caller] -= 1
            if not self._readers[caller]:
                del self._readers[caller]
