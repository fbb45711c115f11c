"""The typed client against a real broker; another task plays the worker."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient

from turnstream.connectors.avro import Codec
from turnstream.connectors.kafka.admin import TopicAdmin
from turnstream.schemas.errors import (
    InvalidRequestError,
    RecordTooLargeError,
    TooManyRequestsError,
)
from turnstream.schemas.records.commands import CancelTurn, Command, ResumeTurn, StartTurn
from turnstream.schemas.records.results import TurnResult
from turnstream.schemas.topics import Topics
from turnstream.streams.client.backend import TurnClient

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

CODEC = Codec()


class Backend:
    """Topics, what arrived on the input topic, and answers by hand."""

    def __init__(self, kafka: str, topics: Topics) -> None:
        self.kafka, self.topics = kafka, topics
        self.arrived: list[tuple[bytes, Command]] = []
        self.producer = AIOKafkaProducer(bootstrap_servers=kafka, acks="all")
        self.silent = False

    def client(self, **options: object) -> TurnClient:
        return TurnClient(self.kafka, topics=self.topics, actor="test", **options)  # type: ignore[arg-type]

    async def serve(self) -> None:
        consumer = AIOKafkaConsumer(
            self.topics.turns_of("default"),
            bootstrap_servers=self.kafka,
            auto_offset_reset="earliest",
        )
        await consumer.start()
        try:
            async for record in consumer:
                command = CODEC.decode(record.value)
                assert isinstance(command, Command)
                self.arrived.append((record.key, command))
                if not self.silent and not isinstance(command, CancelTurn):
                    await self.answer(command)
                    await self.answer(command)  # repeats are equal, and do no harm
        finally:
            await consumer.stop()

    async def answer(self, command: Command, **changes: Any) -> None:
        result = TurnResult(
            event_id=f"{command.turn_id}-result",
            tenant="default",
            thread_id=command.thread_id,
            turn_id=command.turn_id,
            correlation_id=command.correlation_id,
            status="completed",
            text=f"answer to {getattr(command, 'text', '')}",
        )
        result = msgspec.structs.replace(result, **changes)
        topic = self.topics.results_of("default")
        # one partition: readers see the answers in this order
        await self.producer.send_and_wait(topic, CODEC.encode(result), key=b"k")


@pytest.fixture
async def backend(kafka: str, prefix: str) -> AsyncIterator[Backend]:
    topics = Topics(prefix)
    wanted = topics.all(("default",), 2)
    async with TopicAdmin(kafka) as admin:
        await admin.create(wanted)
    backend = Backend(kafka, topics)
    await backend.producer.start()
    serving = asyncio.create_task(backend.serve())
    yield backend
    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)
    await backend.producer.stop()
    client = AIOKafkaAdminClient(bootstrap_servers=kafka)
    await client.start()
    await client.delete_topics([topic.name for topic in wanted])
    await client.close()


async def test_each_caller_gets_its_own_result(backend: Backend):
    async with backend.client() as client:
        results = await asyncio.gather(
            *(
                client.run(f"t{n % 3}", f"question {n}", correlation_id=f"c{n}", timeout_s=60)
                for n in range(30)
            )
        )

    assert [(r.correlation_id, r.text) for r in results] == [
        (f"c{n}", f"answer to question {n}") for n in range(30)
    ]
    key, command = backend.arrived[0]
    assert key == f"default/{command.thread_id}".encode()
    assert isinstance(command, StartTurn)
    assert (command.tenant, command.actor, command.graph) == ("default", "test", "agent")


async def test_resume_and_cancel(backend: Backend):
    async with backend.client() as client:
        started = await client.start("t", input={"messages": []}, metadata={"a": 1})
        await client.cancel("t", started.turn_id, reason="changed my mind")
        resumed = await client.resume("t", {"f" * 32: "yes"}, idempotency_key="k")
        again = await client.resume("t", {"f" * 32: "yes"}, idempotency_key="k")
        assert (await client.result(resumed, timeout_s=60)).status == "completed"

    commands = [command for _, command in backend.arrived]
    assert [type(command) for command in commands[:3]] == [StartTurn, CancelTurn, ResumeTurn]
    start, cancel, resume = commands[:3]
    assert isinstance(start, StartTurn)
    assert (start.input, start.metadata) == ('{"messages":[]}', '{"a":1}')
    assert cancel.turn_id == start.turn_id
    assert isinstance(resume, ResumeTurn)
    assert resume.answers == '{"%s":"yes"}' % ("f" * 32)
    assert resumed.turn_id == again.turn_id


async def test_a_result_that_does_not_come(backend: Backend):
    backend.silent = True
    async with backend.client(pending_max=1) as client:
        started = await client.start("t", "hello")
        with pytest.raises(TimeoutError):
            await client.result(started, timeout_s=0.2)
        with pytest.raises(TooManyRequestsError):
            await client.start("t", "one more")
        backend.silent = False
        await backend.answer(StartTurn(thread_id="t", turn_id=started.turn_id, text="late"))
        assert (await client.result(started, timeout_s=60)).text == "answer to late"


async def test_what_is_wrong_is_refused_before_it_is_sent(backend: Backend):
    async with backend.client() as client:
        for call in (
            client.start("", "hello"),
            client.start("t"),
            client.start("t", "hello", input={}),
            client.start("t", "hello", turn_id="no-uuid"),
            client.cancel("t", "no-uuid"),
        ):
            with pytest.raises(InvalidRequestError):
                await call
        with pytest.raises(RecordTooLargeError):
            await client.start("t", "x" * (1 << 20))
    assert backend.arrived == []


async def test_a_turns_own_result_replaces_that_of_its_dead_letter(backend: Backend):
    async with backend.client() as client:
        backend.silent = True
        refused = await client.start("t1", "hello")
        command = await _arrived(backend, refused.turn_id)
        await backend.answer(command, status="rejected", code="dead_letter", letter_id="l")
        assert (await client.result(refused, timeout_s=60)).code == "dead_letter"

        requeued, marker = await client.start("t2", "hello"), await client.start("t2", "marker")
        command = await _arrived(backend, requeued.turn_id)
        for fields in (
            {"status": "rejected", "code": "dead_letter"},
            {"status": "completed"},
            {"status": "rejected", "code": "dead_letter"},
        ):
            await backend.answer(command, **fields)
        await backend.answer(await _arrived(backend, marker.turn_id))
        await client.result(marker, timeout_s=60)
        assert (await client.result(requeued, timeout_s=60)).status == "completed"


async def _arrived(backend: Backend, turn_id: str) -> Command:
    async with asyncio.timeout(60):
        while True:
            for _, command in backend.arrived:
                if command.turn_id == turn_id:
                    return command
            await asyncio.sleep(0.02)
