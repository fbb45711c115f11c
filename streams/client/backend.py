"""A small client for backends: start, resume and cancel turns over Kafka, and await their results.

    async with TurnClient("127.0.0.1:9092", tenant="default") as client:
        result = await client.run("thread-1", "What time is it in Seoul?")
        print(result.status, result.text)

Writes Avro commands to `turns.<tenant>`, reads `turn-results.<tenant>` from the end that stood when
it was opened, without a group. Any Kafka client can do the same with one line of JSON; this one
checks the fields and matches the answers.
"""

from __future__ import annotations

import time
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import msgspec
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from turnstream.connectors.avro import Codec
from turnstream.connectors.kafka.wire.clients import client_options, open_client
from turnstream.connectors.kafka.wire.consumers import new_consumer
from turnstream.schemas.errors import (
    InvalidRequestError,
    KafkaUnavailableError,
    RecordTooLargeError,
)
from turnstream.schemas.ids import (
    check_tenant,
    check_thread_id,
    new_turn_id,
    parse_turn_id,
    thread_key,
    turn_id_of_key,
)
from turnstream.schemas.records.commands import CancelTurn, ResumeTurn, StartTurn
from turnstream.schemas.topics import COMMAND_BYTES_MAX, Topics
from turnstream.streams.client.results import Results

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from turnstream.schemas.records.commands import OnBusy
    from turnstream.schemas.records.results import TurnResult

PENDING_MAX = 10_000
_RECORD_OVERHEAD = 1024


@dataclass(frozen=True, slots=True)
class Published:
    """A command that Kafka has acknowledged, and where it stands."""

    turn_id: str
    thread_id: str
    correlation_id: str
    topic: str
    partition: int
    offset: int


class TurnClient:
    """Publish commands of one tenant and await results; use it as an async context manager.

    `codec`: with a schema registry, that of `connectors.registry.open_codec`. `pending_max`: the
    results that are awaited at once; one more raises `TooManyRequestsError`. `kafka` are aiokafka's
    connection options. Calls raise `KafkaUnavailableError` where Kafka does not take a record.
    """

    def __init__(
        self,
        bootstrap: str,
        *,
        tenant: str = "default",
        actor: str = "",
        topics: Topics | None = None,
        codec: Codec | None = None,
        pending_max: int = PENDING_MAX,
        **kafka: Any,
    ) -> None:
        self._bootstrap = bootstrap
        self._tenant = check_tenant(tenant)
        self._actor = actor
        names = topics or Topics()
        self._commands = names.turns_of(tenant)
        self._codec = codec or Codec()
        self._stack = AsyncExitStack()
        self._producer = AIOKafkaProducer(
            acks="all", enable_idempotence=True, **client_options(bootstrap, kafka)
        )
        self._consumer = new_consumer(
            bootstrap,
            enable_auto_commit=False,
            auto_offset_reset="latest",
            max_partition_fetch_bytes=8 << 20,
            **kafka,
        )
        self._results = Results(self._consumer, names.results_of(tenant), self._codec, pending_max)

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            for one in (self._producer, self._consumer):
                await open_client(one.start, one.stop, self._bootstrap)
                stack.push_async_callback(one.stop)
            try:
                await self._results.seek_to_end()
            except KafkaError as error:
                raise KafkaUnavailableError(f"results of {self._tenant}: {error!r}") from error
            stack.push_async_callback(self._results.stop)
            self._results.start()
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        await self._stack.aclose()

    async def start(
        self,
        thread_id: str,
        text: str = "",
        *,
        input: object = None,  # noqa: A002  the field's name
        graph: str = "agent",
        config: Mapping[str, object] | None = None,
        metadata: Mapping[str, object] | None = None,
        on_busy: OnBusy = "enqueue",
        idempotency_key: str = "",
        turn_id: str = "",
        correlation_id: str = "",
        expires_at: int = 0,
        traceparent: str = "",
    ) -> Published:
        """Start a turn with one user message (`text`), or with the graph's `input`.

        With an `idempotency_key` any number of equal calls give one turn. `correlation_id` comes
        back in the result; without one it is the turn's id. `expires_at`: microseconds since 1970.
        """
        if bool(text) == (input is not None):
            raise InvalidRequestError("give either text or input", field="text")
        turn_id = self._turn_id(turn_id, idempotency_key)
        command = StartTurn(
            **self._envelope(thread_id, turn_id, correlation_id, traceparent),
            idempotency_key=idempotency_key,
            graph=graph,
            text=text,
            input=_json(input),
            config=_json(config),
            metadata=_json(metadata),
            expires_at=expires_at,
            on_busy=on_busy,
        )
        return await self._publish(command)

    async def resume(
        self,
        thread_id: str,
        answers: Mapping[str, object],
        *,
        graph: str = "agent",
        idempotency_key: str = "",
        correlation_id: str = "",
        traceparent: str = "",
    ) -> Published:
        """Answer open interrupts of the thread (id to answer); that is a turn of its own."""
        turn_id = self._turn_id("", idempotency_key)
        command = ResumeTurn(
            **self._envelope(thread_id, turn_id, correlation_id, traceparent),
            idempotency_key=idempotency_key,
            graph=graph,
            answers=_json(dict(answers)),
        )
        return await self._publish(command)

    async def cancel(self, thread_id: str, turn_id: str, *, reason: str = "") -> Published:
        """Stop a turn, running or queued or not there yet; what it has said is kept.

        It has no result of its own. The turn's result has the status `cancelled`, or that of an
        earlier end.
        """
        turn_id = str(parse_turn_id(turn_id))
        command = CancelTurn(**self._envelope(thread_id, turn_id, "", ""), reason=reason)
        return await self._publish(command, awaited=False)

    async def result(self, published: Published, *, timeout_s: float | None = 300.0) -> TurnResult:
        """Return the result of a command that this client published; raises `TimeoutError`.

        May be called once; a result that is not asked for stays until the client is closed. A
        command that became a dead letter has the code `dead_letter`; the turn's own result, which
        follows a requeue, replaces it until this is called.
        """
        return await self._results.wait(published.turn_id, timeout_s)

    async def run(
        self, thread_id: str, text: str, *, timeout_s: float | None = 300.0, **options: Any
    ) -> TurnResult:
        """Start a turn and return its result; `options` as for `start`."""
        published = await self.start(thread_id, text, **options)
        return await self.result(published, timeout_s=timeout_s)

    def _turn_id(self, turn_id: str, idempotency_key: str) -> str:
        if turn_id:
            return str(parse_turn_id(turn_id))
        if idempotency_key:
            return str(turn_id_of_key(self._tenant, idempotency_key))
        return str(new_turn_id())

    def _envelope(
        self, thread_id: str, turn_id: str, correlation_id: str, traceparent: str
    ) -> dict[str, Any]:
        return {
            "tenant": self._tenant,
            "thread_id": check_thread_id(thread_id),
            "turn_id": turn_id,
            "at": _now_us(),
            "actor": self._actor,
            "correlation_id": correlation_id or turn_id,
            "traceparent": traceparent,
        }

    async def _publish(
        self, command: StartTurn | ResumeTurn | CancelTurn, *, awaited: bool = True
    ) -> Published:
        key = thread_key(self._tenant, command.thread_id).encode()
        value = self._codec.encode(command)
        if len(key) + len(value) + _RECORD_OVERHEAD > COMMAND_BYTES_MAX:
            raise RecordTooLargeError(f"the command has {len(value)} bytes")
        if awaited:  # before the send: a result may be quicker than the acknowledgement
            self._results.expect(command.turn_id)
        try:
            stored = await self._producer.send_and_wait(self._commands, value, key=key)
        except KafkaError as error:
            if awaited:
                self._results.forget(command.turn_id)
            raise KafkaUnavailableError(f"{self._commands}: {error!r}") from error
        return Published(
            turn_id=command.turn_id,
            thread_id=command.thread_id,
            correlation_id=command.correlation_id,
            topic=stored.topic,
            partition=stored.partition,
            offset=stored.offset,
        )


def _json(value: object) -> str:
    return "" if value is None else msgspec.json.encode(value).decode()


def _now_us() -> int:
    return time.time_ns() // 1000
