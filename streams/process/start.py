"""Runs a process from its start to SIGTERM, also where Kafka and Postgres are not up yet.

The process waits for a part that does not answer, for `TURNSTREAM_START_TIMEOUT_S` at most. The log
names the part once, the process's port answers meanwhile (alive, not ready), and a stop signal ends
the wait. An error that no waiting cures ends the process at once. Later outages are handled by the
running parts.
"""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Protocol, TypeVar

import structlog
from psycopg.conninfo import conninfo_to_dict

from turnstream.connectors.kafka.admin import TopicAdmin
from turnstream.connectors.postgres.migrate import check_schema
from turnstream.connectors.postgres.pools import check_database
from turnstream.schemas.errors import (
    DatabaseUnavailableError,
    KafkaUnavailableError,
    RegistryUnavailableError,
    UnavailableError,
)
from turnstream.streams.app.hiding import hidden
from turnstream.streams.process.garbage import settle_memory
from turnstream.streams.process.health import waiting_port
from turnstream.streams.process.life import on_stop_signal
from turnstream.streams.process.prepare import check_topics, in_daemon, prepare

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
    from contextlib import AbstractAsyncContextManager

    from turnstream.streams.app.settings import Settings

log = structlog.get_logger(__name__)

RETRY_S = 0.5
ANSWER_TIMEOUT_S = 5.0
"""Seconds for one answer; a server that accepts a connection and does not answer is asked again."""
_Opened = TypeVar("_Opened")


class Runs(Protocol):
    """A worker or an edge."""

    async def run(self) -> None:
        """Work until `stop`."""
        ...

    def stop(self) -> None:
        """Begin to end."""
        ...


async def run_until_signal(
    settings: Settings,
    open_it: Callable[[], AbstractAsyncContextManager[Runs]],
    *,
    create: bool,
    host: str,
    port: int,
) -> None:
    """Open a worker or an edge once its parts answer, and run it until SIGTERM or SIGINT.

    `create`: make missing topics and tables first. At `host` and `port` it answers meanwhile
    that it waits; port 0: nowhere. Raises the `UnavailableError` of a part that does not answer.
    """
    starting = asyncio.timeout(None)
    opened: Runs | None = None

    def stop() -> None:
        if opened is None:
            starting.reschedule(0.0)
        else:
            opened.stop()

    on_stop_signal(stop)
    async with AsyncExitStack() as stack:
        try:
            async with starting:
                opened = await stack.enter_async_context(
                    _opened(settings, open_it, create=create, host=host, port=port)
                )
        except TimeoutError:
            if not starting.expired():
                raise
            return
        settle_memory()
        await opened.run()


async def prepared(settings: Settings, make: Callable[[], Awaitable[_Opened]]) -> _Opened | None:
    """Make topics and tables once the parts answer, then return what `make` does.

    None: SIGTERM or SIGINT came first. Raises as `run_until_signal`.
    """

    @asynccontextmanager
    async def made() -> AsyncIterator[_Opened]:
        yield await make()

    starting = asyncio.timeout(None)
    on_stop_signal(lambda: starting.reschedule(0.0))
    try:
        async with starting, _opened(settings, made, create=True, host="", port=0) as one:
            return one
    except TimeoutError:
        if not starting.expired():
            raise
        return None


@asynccontextmanager
async def _opened(
    settings: Settings,
    open_it: Callable[[], AbstractAsyncContextManager[_Opened]],
    *,
    create: bool,
    host: str,
    port: int,
) -> AsyncIterator[_Opened]:
    until = time.monotonic() + settings.start_timeout_s
    async with AsyncExitStack() as opened, AsyncExitStack() as listening:
        wait = _Wait()
        while True:
            try:
                await _all_answer(settings, create=create)
                await listening.aclose()  # the port is theirs now
                wait.listens = False
                one = await opened.enter_async_context(open_it())
                break
            except UnavailableError as error:
                left_s = until - time.monotonic()
                if left_s < RETRY_S:
                    raise
                wait.tell(_part(settings, error), str(error), left_s)
                if port and not wait.listens:
                    await listening.enter_async_context(waiting_port(host, port, lambda: wait.part))
                    wait.listens = True
                await asyncio.sleep(RETRY_S)
        if wait.part:
            log.info("wait_over", part=wait.part)
        yield one


class _Wait:
    """Which part is waited for, "" for none, and whether the port says so."""

    def __init__(self) -> None:
        self.part = ""
        self.listens = False

    def tell(self, part: str, why: str, left_s: float) -> None:
        """Log the part, unless it is the one that was waited for before."""
        if part != self.part:
            log.warning("waits_for", part=part, error=why, gives_up_in_s=round(left_s, 1))
        self.part = part


async def _all_answer(settings: Settings, *, create: bool) -> None:
    """Ask each part; raises `UnavailableError`, or what no waiting cures."""
    for url in {settings.direct_url, settings.database_url.get_secret_value()}:
        await check_database(url, timeout_s=ANSWER_TIMEOUT_S)
    with _quiet("aiokafka"):
        async with TopicAdmin(
            settings.kafka_bootstrap, request_timeout_ms=round(ANSWER_TIMEOUT_S * 1000)
        ) as admin:
            await admin.brokers()
    if create:
        await prepare(settings)
    else:
        await in_daemon(check_schema, settings.direct_url)
        await check_topics(settings)


def _part(settings: Settings, error: UnavailableError) -> str:
    """Return the part's name and address, without a password."""
    if isinstance(error, DatabaseUnavailableError):
        at = conninfo_to_dict(settings.direct_url)
        host, port, name = at.get("host", "localhost"), at.get("port", 5432), at.get("dbname", "")
        return f"Postgres at {host}:{port}/{name}"
    if isinstance(error, KafkaUnavailableError):
        return f"Kafka at {hidden(settings.kafka_bootstrap)}"
    if isinstance(error, RegistryUnavailableError):
        return f"the schema registry at {hidden(settings.schema_registry_url)}"
    return str(error)


@contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Keep a library from logging each try: the wait is told once, here."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
