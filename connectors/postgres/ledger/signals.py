"""Wake-ups between processes: LISTEN and NOTIFY. A lost wake-up costs time only, because of polls.

A NOTIFY inside a writing transaction makes all commits queue up, so it is always a statement of its
own.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING

import asyncpg

from turnstream.connectors.postgres.pools import FAILURES

if TYPE_CHECKING:
    from uuid import UUID

CANCEL_CHANNEL = "turnstream_cancel"
READY_CHANNEL = "turnstream_ready"
READY_EVERY_S = 0.005
RECONNECT_S_MAX = 2.0

Listeners = Mapping[str, Callable[[str], None]]

_PEER = """
SELECT pg_notify($1, worker::text) FROM workers
 WHERE worker <> $2 AND lease_until > clock_timestamp() AND taking ORDER BY random() LIMIT 1
"""


class Signals:
    """Sends wake-ups over a pool; a failure to send is not an error."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool
        self._ready_from = 0.0

    async def wake(self, channel: str, payload: str) -> None:
        """Notify every listener of a channel."""
        await self._send("SELECT pg_notify($1, $2)", channel, payload)

    async def wake_peer(self, worker: UUID) -> None:
        """Wake one other live worker, because threads wait in `ready`; at most once per 5 ms.

        The payload is the id of the worker that is woken; the others ignore it.
        """
        now = asyncio.get_running_loop().time()
        if now < self._ready_from:
            return
        self._ready_from = now + READY_EVERY_S
        await self._send(_PEER, READY_CHANNEL, worker)

    async def _send(self, sql: str, *values: object) -> None:
        try:
            await self._pool.execute(sql, *values)
        except FAILURES:
            return  # the listener finds out by its next poll


async def listen(
    dsn: str, listeners: Listeners, *, on_connect: Callable[[], None] | None = None
) -> None:
    """Call each channel's listener with every payload, until cancelled; reconnects by itself.

    Needs a direct connection. Notifications are lost while there is none, so `on_connect` is called
    after every connect and can poll.
    """
    wait_s = 0.05
    while True:
        with suppress(*FAILURES):
            await _listen_once(dsn, listeners, on_connect)
            wait_s = 0.05
        await asyncio.sleep(random.uniform(0.5, 1.0) * wait_s)  # noqa: S311
        wait_s = min(2 * wait_s, RECONNECT_S_MAX)


async def _listen_once(
    dsn: str, listeners: Listeners, on_connect: Callable[[], None] | None
) -> None:
    cut = asyncio.Event()
    connection = await asyncpg.connect(
        dsn, timeout=5.0, server_settings={"application_name": "turnstream-listener"}
    )
    try:
        connection.add_termination_listener(lambda _: cut.set())
        for channel, heard in listeners.items():
            await connection.add_listener(channel, _callback(heard))
        if on_connect is not None:
            on_connect()
        await cut.wait()
    finally:
        connection.terminate()


def _callback(heard: Callable[[str], None]) -> Callable[[object, int, str, str], None]:
    return lambda _connection, _pid, _channel, payload: heard(payload)
