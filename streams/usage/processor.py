"""The usage processor: token totals a tenant, window and model, derived from the results.

Reads `turn-results.<tenant>`, counts each turn once in the database, and publishes the totals that
changed to `usage` (compacted; key `tenant/window/model`). Runs on Faust in the one way that loses
nothing: no tables, one event at a time, raw bytes, handlers that never raise (ARCHITECTURE.md, D3).
A result may be handled twice, and a total may be published twice; neither counts twice.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, NoReturn, Protocol, TypeVar

import faust
import structlog
from aiokafka.errors import KafkaError

from turnstream.connectors.kafka.read.unreadable import unreadable_of
from turnstream.schemas.errors import UnavailableError, UndecodableError
from turnstream.schemas.records.events import UnknownEvent
from turnstream.schemas.records.results import DEAD_LETTER, DeadLetter, TurnResult
from turnstream.schemas.topics import EVENT_BYTES_MAX
from turnstream.schemas.unexpected import note
from turnstream.streams.usage.transport import ReadableTransport

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
    from contextlib import AbstractAsyncContextManager

    import msgspec

    from turnstream.schemas.records.results import UsageTotal
    from turnstream.streams.app.settings import Settings

    Send = Callable[[bytes, bytes], Awaitable[None]]

_T = TypeVar("_T")
log = structlog.get_logger(__name__)

PUBLISH_EVERY_S = 0.5
PUBLISH_BATCH_MAX = 500
RETRY_FIRST_S = 0.1
RETRY_MAX_S = 5.0
GIVE_UP_S = 300.0
STOP_TIMEOUT_S = 10.0
ACK_TIMEOUT_S = 30.0
EXIT_GAVE_UP = 75  # EX_TEMPFAIL: start the processor again
EXIT_BROKEN = 70  # EX_SOFTWARE
_ENVELOPE_BYTES_MAX = 64 << 10


class Store(Protocol):
    """Where turns are counted; `connectors.postgres.stores.usage.UsageStore` is one."""

    async def count(self, result: TurnResult, window_s: int) -> bool:
        """Count the turn once; raises `UndecodableError` for one that can never be counted."""
        ...

    def due(self, limit: int) -> AbstractAsyncContextManager[list[UsageTotal]]:
        """Lend the totals that changed; leaving without an error marks them as published."""
        ...


class Codec(Protocol):
    """Bytes to records and back; `connectors.avro.Codec` is one."""

    def decode(self, data: bytes) -> msgspec.Struct:
        """Return the record; raises `UndecodableError`."""
        ...

    def encode(self, record: msgspec.Struct) -> bytes:
        """Return the bytes."""
        ...


def usage_key(total: UsageTotal) -> bytes:
    """Return the key of a total: `tenant/window/model`, the window as its start in seconds."""
    return f"{total.tenant}/{total.window_start // 1_000_000}/{total.model}".encode()


def read_result(codec: Codec, value: bytes | None, tenant: str) -> TurnResult:
    """Return the result that a record holds; raises `UndecodableError` with the reason."""
    record = codec.decode(value or b"")
    if isinstance(record, UnknownEvent):
        raise UndecodableError(
            f"unknown record type {record.type!r}; this version does not have its schema",
            code="unknown_schema",
        )
    if not isinstance(record, TurnResult):
        raise UndecodableError(f"{type(record).__name__} is no result", code="not_a_result")
    if record.tenant != tenant:
        raise UndecodableError(
            f"a result of tenant {record.tenant[:100]} on the topic of {tenant}",
            code="tenant_mismatch",
        )
    return record


class Message(Protocol):
    """A Kafka record, as Faust gives it."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]] | None


class Event(Protocol):
    """An event of a Faust stream."""

    message: Message


class Stream(Protocol):
    """A Faust stream."""

    def events(self) -> AsyncIterator[Event]:
        """Give the events, one at a time."""
        ...


class Topic(Protocol):
    """A Faust topic."""

    async def send(self, *, key: bytes | None, value: bytes) -> Awaitable[object]:
        """Hand a record over; what it returns waits for the ack."""
        ...


class Counter:
    """What the processor does with one record, and with the totals that are due."""

    def __init__(self, store: Store, codec: Codec, tenants: dict[str, str], window_s: int) -> None:
        self._store = store
        self._codec = codec
        self._tenants = tenants
        self._window_s = window_s

    async def take(self, message: Message) -> DeadLetter | None:
        """Count a record's turn; return a dead letter for one that cannot be. May be repeated."""
        unreadable = unreadable_of(list(message.headers or ()))
        if unreadable is not None:
            return self._dead_letter(message, unreadable.code, unreadable.message)
        try:
            result = read_result(self._codec, message.value, self._tenants[message.topic])
            if result.code != DEAD_LETTER:  # no turn ran; if one does later, it has this turn id
                await self._store.count(result, self._window_s)
        except UndecodableError as error:
            return self._dead_letter(message, error.code, str(error))
        except UnavailableError:
            raise
        except Exception as error:  # noqa: BLE001  one record must not stop all the others
            error_id = note("usage", error, topic=message.topic, offset=message.offset)
            why = f"{type(error).__name__} (error {error_id})"
            return self._dead_letter(message, "internal", why)
        return None

    def _dead_letter(self, message: Message, code: str, why: str) -> DeadLetter:
        room = EVENT_BYTES_MAX - _ENVELOPE_BYTES_MAX
        return DeadLetter(
            code=code,
            message=why[:1000],
            tenant=self._tenants.get(message.topic, ""),
            topic=message.topic,
            partition=message.partition,
            offset=message.offset,
            at=time.time_ns() // 1000,
            key=(message.key or b"")[:1000],
            value=(message.value or b"")[:room],
        )

    async def publish(self, send: Send) -> int:
        """Send the totals that are due and wait for their acks; return how many there were."""
        async with asyncio.timeout(ACK_TIMEOUT_S), self._store.due(PUBLISH_BATCH_MAX) as totals:
            await asyncio.gather(
                *(send(usage_key(total), self._codec.encode(total)) for total in totals)
            )
            return len(totals)


class UsageApp(faust.App):
    """The Faust application; it opens the store before it takes the first record."""

    counter: Counter
    open_counter: Callable[[], AbstractAsyncContextManager[Counter]]

    async def on_start(self) -> None:
        """Open the store; it is closed when the application has stopped."""
        self.counter = await self.add_async_context(self.open_counter())
        await super().on_start()

    def _new_transport(self) -> ReadableTransport:
        return ReadableTransport(self.conf.broker_consumer, self)


def build_usage_app(
    settings: Settings, codec: Codec, open_store: Callable[[], AbstractAsyncContextManager[Store]]
) -> UsageApp:
    """Return the processor; the topics have to exist."""
    topics = settings.topics
    tenants = {topics.results_of(tenant): tenant for tenant in settings.tenants}
    app = UsageApp(
        f"{settings.topic_prefix}turnstream-usage",
        broker=[f"kafka://{server}" for server in settings.kafka_bootstrap.split(",")],
        datadir=str(settings.processor_folder),
        key_serializer="raw",
        value_serializer="raw",
        topic_disable_leader=True,
        web_enabled=False,
        store="memory://",
        # measured: the defaults wait 59 s after a kill -9, and never progress in a crash loop
        broker_commit_interval=0.5,
        broker_session_timeout=10.0,
        broker_heartbeat_interval=3.0,
        consumer_auto_offset_reset="earliest",
        consumer_max_fetch_size=2 * EVENT_BYTES_MAX,
        broker_check_crcs=False,  # `read_readable` has verified them
        producer_acks=-1,
        producer_max_request_size=EVENT_BYTES_MAX + _ENVELOPE_BYTES_MAX,
    )

    @asynccontextmanager
    async def open_counter() -> AsyncIterator[Counter]:
        async with open_store() as store:
            yield Counter(store, codec, tenants, settings.usage_window_s)

    app.open_counter = open_counter
    usage, dead_letters = app.topic(topics.usage), app.topic(topics.dead_letters)

    async def take(message: Message) -> None:
        letter = await app.counter.take(message)
        if letter is not None:
            log.warning("record_parked", code=letter.code, topic=letter.topic, offset=letter.offset)
            await _send(dead_letters, letter.key, codec.encode(letter))

    async def count(stream: Stream) -> None:
        async for event in stream.events():
            await until_done(partial(take, event.message))

    async def publish() -> None:
        while not app.should_stop:
            sent = await until_done(partial(app.counter.publish, partial(_send, usage)))
            if sent < PUBLISH_BATCH_MAX:
                await app.sleep(PUBLISH_EVERY_S)

    app.agent(app.topic(*tenants), concurrency=1)(count)
    app.task(publish)
    return app


async def _send(topic: Topic, key: bytes, value: bytes) -> None:
    await (await topic.send(key=key or None, value=value))


async def until_done(call: Callable[[], Awaitable[_T]]) -> _T:
    """Repeat `call` until it succeeds; after `GIVE_UP_S` leave the process.

    A handler that raises loses its event in Faust. Leaving does not: what was not committed is read
    again by the next process.
    """
    pause, since = RETRY_FIRST_S, time.monotonic()
    while True:
        try:
            return await call()
        except (UnavailableError, KafkaError, OSError, TimeoutError) as error:
            log.warning("processor_retries", error=repr(error), pause_s=pause)
            if time.monotonic() - since > GIVE_UP_S:
                log.exception("processor_gave_up", after_s=GIVE_UP_S)
                os._exit(EXIT_GAVE_UP)
        except Exception:
            log.exception("processor_broken")
            os._exit(EXIT_BROKEN)
        await asyncio.sleep(pause)
        pause = min(pause * 2, RETRY_MAX_S)


def run_usage_app(app: UsageApp, log_level: str) -> NoReturn:
    """Run until SIGTERM or SIGINT; then stop, at the latest after `STOP_TIMEOUT_S`."""

    def leave(*_: object, **__: object) -> None:
        # Faust may wait for ever for a broker that has gone; nothing is lost by leaving
        timer = threading.Timer(STOP_TIMEOUT_S, os._exit, (0,))
        timer.daemon = True
        timer.start()

    app.on_before_shutdown.connect(leave, weak=False)
    worker = faust.Worker(app, loglevel=log_level, quiet=True, redirect_stdouts=False)
    worker.spinner = None  # it then logs "Ready", and draws nothing
    worker.execute_from_commandline()
