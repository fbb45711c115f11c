"""An edge on real Kafka and Postgres, and a worker that says what a test wants it to say."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import sys
import uuid
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import uvloop
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from pydantic import SecretStr

from turnstream.connectors.avro import Codec
from turnstream.connectors.kafka.admin import TopicAdmin
from turnstream.connectors.kafka.read.scan import partition_of
from turnstream.connectors.postgres.ledger.ledger import Admission, Admitted, Closed, Finish, Ledger
from turnstream.connectors.postgres.pools import ledger_pool
from turnstream.schemas.fold.fold import TIMELINE_BITS
from turnstream.schemas.ids import event_id, thread_key
from turnstream.schemas.records import events as ev
from turnstream.schemas.records.commands import CancelTurn, ResumeTurn
from turnstream.streams.app.edge import open_edge
from turnstream.streams.app.settings import Settings

sys.path.insert(0, str(Path(__file__).parent))
from edge_front import Front

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from turnstream.connectors.postgres.ledger.ledger import Claim
    from turnstream.connectors.postgres.ledger.rows import Ended
    from turnstream.schemas.records.commands import Command
    from turnstream.streams.edge.server.process import Edge

PARTITIONS = 3
# a test reads what a start answers, on a busy machine too; who wants 202 sets less
START_WAIT_S = 60.0
REGISTER = "SELECT register_worker($1, 'fake', make_interval(secs => 600))"


def pytest_asyncio_loop_factories(config: Any, item: Any) -> dict[str, Any]:
    """Run on the loop that the edge runs on: its transports raise where asyncio's are silent."""
    del config, item
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture
async def settings(kafka: str, ledger_dsn: str, prefix: str) -> Settings:
    """Settings of a fresh installation: topics and tables are there."""
    made = Settings(
        _env_file=None,
        kafka_bootstrap=kafka,
        topic_prefix=prefix,
        partitions=PARTITIONS,
        database_url=SecretStr(ledger_dsn),
        edge_port=0,
        edge_fetch_wait_ms=50,
        edge_start_wait_s=START_WAIT_S,
    )
    async with TopicAdmin(kafka) as admin:
        await admin.create(made.topics.all(made.tenants, PARTITIONS))
    return made


class FakeStates:
    """States that a test sets."""

    def __init__(self) -> None:
        self.by_key: dict[str, Any] = {}
        self.reads = 0

    async def values(self, key: str) -> bytes:
        self.reads += 1
        return json.dumps(self.by_key.get(key, {"messages": []})).encode()


class Running:
    """An edge that runs, and where to reach it."""

    def __init__(self, edge: Edge, states: FakeStates) -> None:
        self.edge = edge
        self.states = states
        self.url = f"http://127.0.0.1:{edge.port}"
        self.ws = f"ws://127.0.0.1:{edge.port}"


@asynccontextmanager
async def running_edge(settings: Settings) -> AsyncIterator[Running]:
    states = FakeStates()
    async with open_edge(settings, state=states) as edge:
        task = asyncio.create_task(edge.run())
        try:
            async with asyncio.timeout(60):
                while not edge.tail.ready.is_set():
                    if task.done():
                        task.result()
                    await asyncio.sleep(0.01)
            yield Running(edge, states)
        finally:
            edge.stop()
            async with asyncio.timeout(60):
                await task


@pytest.fixture
async def edge(settings: Settings) -> AsyncIterator[Running]:
    async with running_edge(settings) as running:
        yield running


@pytest.fixture
def open_running() -> Callable[[Settings], Any]:
    """Return what opens one more edge."""
    return running_edge


@pytest.fixture
async def front() -> AsyncIterator[Front]:
    """One address in front of edges that come and go."""
    async with Front() as front:
        yield front


class Turn:
    """An attempt at a claimed turn: `say` appends an event, `end` settles and tells the end."""

    def __init__(self, worker: FakeWorker, claim: Claim | Ended, epoch: int) -> None:
        self.worker = worker
        self.claim = claim
        self.turn_id = str(claim.turn_id)
        self.epoch = epoch
        self.n = 0
        self.first_off: int | None = None
        self.last_off = -1

    async def say(self, kind: type[ev.Event], /, *, path: str = "", **fields: Any) -> int:
        """Append one event; returns its offset."""
        if kind is ev.AttemptStarted:
            self.n = fields["high_n"]
        elif kind is not ev.InputResolved:
            self.n += 1
        tenant, _, thread_id = self.claim.thread_key.partition("/")
        record = kind(
            event_id=event_id(self.turn_id, self.epoch, self.n),
            tenant=tenant,
            thread_id=thread_id,
            turn_id=self.turn_id,
            epoch=self.epoch,
            n=self.n,
            path=path,
            at=1_700_000_000_000_000 + self.n,
            **fields,
        )
        self.last_off = await self.worker.append(self.claim, record)
        if self.first_off is None:
            self.first_off = self.last_off
        return self.last_off

    async def start(self, **fields: Any) -> int:
        given = {"reason": "first", "base": 0, "keep_n": 0, "high_n": 0, "graph": "agent"}
        return await self.say(ev.AttemptStarted, **given | fields)

    async def again(self, **fields: Any) -> None:
        """Begin another attempt, as a new owner would."""
        self.epoch += 1
        await self.worker.pool.execute(
            "UPDATE threads SET epoch = $2 WHERE thread_key = $1",
            self.claim.thread_key,
            self.epoch,
        )
        await self.start(**{"reason": "again"} | fields)

    async def message(self, text: str, message_id: str = "m1", *, path: str = "t1") -> None:
        """Say a whole message, a token a word."""
        await self.say(ev.MessageStarted, path=path, message_id=message_id)
        await self.tokens(text, message_id, path=path)
        await self.say(ev.MessageFinished, path=path, message_id=message_id, finish_reason="stop")

    async def tokens(self, text: str, message_id: str = "m1", *, path: str = "t1") -> None:
        for word in text.split(" "):
            await self.say(
                ev.TokensEmitted,
                path=path,
                message_id=message_id,
                block=0,
                kind="text",
                text=word + " ",
            )

    async def end(self, kind: type[ev.Event] = ev.TurnCompleted, /, **fields: Any) -> None:
        status = {
            ev.TurnCompleted: "completed",
            ev.TurnInterrupted: "interrupted",
            ev.TurnCancelled: "cancelled",
            ev.TurnFailed: "failed",
            ev.TurnRejected: "rejected",
        }[kind]
        asked = [interrupt.id for interrupt in fields.get("interrupts", ())]
        await self.worker.settle(self, status, asked)
        await self.say(kind, **fields)
        await self.worker.finish(self)


async def hello(turn: Turn) -> None:
    """The script of a worker that was given none."""
    await turn.start()
    await turn.say(ev.StepStarted, path="t1", step=1, node="model", task_id="t1")
    await turn.message("hello world")
    await turn.say(ev.StepFinished, path="t1", step=1, node="model", task_id="t1")
    await turn.say(ev.CheckpointSaved, checkpoint_id="c1", step=1)
    await turn.end(ev.TurnCompleted, message_id="m1", text="hello world ")


class FakeWorker:
    """Admits what comes on `turns` through the real ledger, and plays `script` for each claim."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.script: Callable[[Turn], Awaitable[None]] = hello
        self.codec = Codec()
        self.worker = uuid.uuid4()
        self.commands: list[Any] = []
        self.turns: list[Turn] = []
        self.ended: list[Ended] = []
        self.ends_at: list[int] = []
        """The offsets of the unclaimed ends that it has published."""
        self.closes_ended = True
        """False: it dies after it has published an unclaimed end, before it closes the turn."""
        self._playing: set[asyncio.Task[None]] = set()
        self._taking = asyncio.Lock()
        """Held while a record is taken in: its end is published, then closed in the ledger."""

    @asynccontextmanager
    async def run(self) -> AsyncIterator[FakeWorker]:
        topics, bootstrap = self.settings.topics, self.settings.kafka_bootstrap
        async with ledger_pool(self.settings.database_url.get_secret_value()) as self.pool:
            self.ledger = Ledger(self.pool)
            await self.pool.execute(REGISTER, self.worker)
            self.producer = AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all", linger_ms=0)
            self.consumer = AIOKafkaConsumer(
                bootstrap_servers=bootstrap, auto_offset_reset="none", enable_auto_commit=False
            )
            await self.producer.start()
            await self.consumer.start()
            places = [TopicPartition(topics.turns, number) for number in range(PARTITIONS)]
            self.consumer.assign(places)
            for place in places:
                await self.ledger.open_position(topics.turns, place.partition, 0)
                at = await self.ledger.position(topics.turns, place.partition)
                self.consumer.seek(place, at)
            intake = asyncio.create_task(self._intake())
            try:
                yield self
            finally:
                intake.cancel()
                for task in self._playing:
                    task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await intake
                await asyncio.gather(*self._playing, return_exceptions=True)
                await self.consumer.stop()
                await self.producer.stop()

    async def _intake(self) -> None:
        async for record in self.consumer:
            async with self._taking:
                await self._take(record)

    async def _take(self, record: Any) -> None:
        command = self.codec.decode(record.value)
        self.commands.append(command)
        given = await self.ledger.admit(
            record.topic,
            record.partition,
            record.offset,
            record.offset + 1,
            [self._admission(record, command)],
            worker=self.worker,
            room=8,
        )
        assert isinstance(given, Admitted), given
        for ended in given.ended:
            self.ended.append(ended)
            offset = await self.publish_end(ended)
            if self.closes_ended:
                await self.close_end(ended, offset)
        self._play(given.claims)

    def _admission(self, record: Any, command: Any) -> Admission:
        kind = {ResumeTurn: "resume", CancelTurn: "cancel"}.get(type(command), "start")
        answers = tuple(json.loads(command.answers)) if kind == "resume" else ()
        key = thread_key(command.tenant, command.thread_id)
        return Admission(
            kind=kind,
            tenant=command.tenant,
            thread_id=command.thread_id,
            thread_key=key,
            turn_id=uuid.UUID(command.turn_id),
            partition=partition_of(key.encode(), PARTITIONS),
            src_off=record.offset,
            body=record.value,
            body_sha=hashlib.sha256(record.value).digest(),
            graph=getattr(command, "graph", ""),
            on_busy=getattr(command, "on_busy", "enqueue"),
            answers=answers,
            actor=command.actor,
        )

    async def idle(self) -> None:
        """Wait until no turn is played."""
        async with asyncio.timeout(60):
            while self._playing:
                await asyncio.gather(*self._playing)

    async def put_back(self) -> None:
        """Let the ledger be what it was before anything was admitted: all is taken in again."""
        async with self._taking:
            async with self.pool.acquire() as connection, connection.transaction():
                for table in ("turns", "ready", "threads", "checkpoints", "workers"):
                    await connection.execute(f"DELETE FROM {table}")
                await connection.execute("UPDATE intake SET next_off = 0")
                await connection.execute("SELECT raise_timeline()")
                await connection.execute(REGISTER, self.worker)
            for place in self.consumer.assignment():
                self.consumer.seek(place, 0)

    def _play(self, claims: Any) -> None:
        for claim in claims:
            turn = Turn(self, claim, claim.epoch)
            self.turns.append(turn)
            refused = claim.outcome is not None
            task = asyncio.create_task(_refuse(turn) if refused else self.script(turn))
            self._playing.add(task)
            task.add_done_callback(self._playing.discard)

    async def ask(self, command: Command) -> None:
        """Send a command, as anybody with Kafka may."""
        key = thread_key(command.tenant, command.thread_id).encode()
        await self.producer.send_and_wait(
            self.settings.topics.turns, self.codec.encode(command), key=key
        )

    async def publish_end(self, ended: Ended) -> int:
        """Say that a turn ended unclaimed; returns the offset."""
        turn = Turn(self, ended, ended.timeline << TIMELINE_BITS)
        outcome = ended.outcome
        offset = await turn.say(
            ev.TurnEnded, outcome=outcome.status, code=outcome.code, message=outcome.message
        )
        self.ends_at.append(offset)
        return offset

    async def close_end(self, ended: Ended, offset: int) -> None:
        """Tell the ledger where it was said."""
        closed = Closed(ended.thread_key, ended.turn_id, offset)
        assert await self.ledger.close_ended([closed], ended.timeline) == 1

    async def append(self, claim: Any, record: ev.Event) -> int:
        done = await self.producer.send_and_wait(
            self.settings.topics.events,
            self.codec.encode(record),
            key=claim.thread_key.encode(),
            partition=claim.partition,
        )
        return done.offset

    async def settle(self, turn: Turn, status: str, asked: list[str]) -> None:
        """Do what the saver does with a turn's last checkpoint."""
        interrupt = {"turn_id": turn.turn_id, "ids": asked} if asked else None
        await self.pool.execute(
            """
            WITH f AS (
              UPDATE threads SET keep_n = $5, high_n = $5, keep = '[]', base = epoch,
                     head_off = coalesce(head_off, $6), interrupt = $4
               WHERE thread_key = $1 AND epoch = $2 RETURNING head)
            UPDATE turns u SET outcome = $3 FROM f WHERE u.thread_key = $1 AND u.seq = f.head
            """,
            turn.claim.thread_key,
            turn.epoch,
            json.dumps({"status": status}),
            json.dumps(interrupt) if interrupt else None,
            turn.n,
            turn.first_off,
        )

    async def finish(self, turn: Turn) -> None:
        item = Finish(turn.claim.thread_key, turn.epoch, turn.last_off, turn.first_off)
        self._play(await self.ledger.finish(self.worker, 8, [item]))


async def _refuse(turn: Turn) -> None:
    await turn.start()
    outcome = turn.claim.outcome
    turn.first_off = turn.first_off
    await turn.say(ev.TurnRejected, reason=outcome.code or "rejected", message=outcome.message)
    await turn.worker.finish(turn)


@pytest.fixture
async def worker(settings: Settings) -> AsyncIterator[FakeWorker]:
    async with FakeWorker(settings).run() as running:
        yield running


@pytest.fixture
def make_worker() -> type[FakeWorker]:
    return FakeWorker
