"""The demo's story, told over the same public doors that everybody uses.

A backend publishes to Kafka, a UI reads over WebSocket, an auditor replays the topic. Writes plain
lines to `say`; needs a running stack whose turns can name the model `scripted`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec
from aiokafka import AIOKafkaProducer

from turnstream.connectors.avro import Codec
from turnstream.connectors.kafka.read.scan import LogScan, partition_of
from turnstream.schemas.errors import (
    DemoError,
    UnavailableError,
)
from turnstream.schemas.ids import new_turn_id, thread_key
from turnstream.schemas.text import text_sha256
from turnstream.streams.client.pieces import End, Piece
from turnstream.streams.client.terminal import Chat
from turnstream.streams.replay.log import Replayer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from turnstream.schemas.topics import Topics
    from turnstream.streams.replay.view import TurnReplay

TURN_TIMEOUT_S = 120.0
_TENANT = "default"


@dataclass(slots=True)
class Seen:
    """What the watching client saw of one turn; times are seconds after it was published."""

    text: str = ""
    pieces: int = 0
    first_s: float = 0.0
    last_s: float = 0.0
    rewinds: int = 0
    resumed_s: float = 0.0
    tools: list[str] = field(default_factory=list)
    end: End | None = None


@dataclass(frozen=True, slots=True)
class Doors:
    """Where the stack is reached, and how the demo speaks."""

    kafka_bootstrap: str
    edge_url: str
    topics: Topics
    workers: frozenset[int]
    say: Callable[[str], None]


async def show(doors: Doors, *, real_model: bool) -> str:
    """Tell the story and return the id of the turn that survived. Raises `DemoError`."""
    async with contextlib.AsyncExitStack() as stack:
        producer = AIOKafkaProducer(bootstrap_servers=doors.kafka_bootstrap, acks="all")
        await producer.start()
        stack.push_async_callback(producer.stop)
        await _from_kafka(doors, producer, real_model=real_model)
        await _with_tool(doors, producer)
        return await _with_kill(doors, producer)


async def _from_kafka(doors: Doors, producer: AIOKafkaProducer, *, real_model: bool) -> None:
    doors.say("1. A backend publishes one line of JSON; a UI reads the tokens over WebSocket.")
    turn: dict[str, object] = {"text": "Tell me in two sentences what an event log is."}
    if not real_model:
        turn = {"text": "tokens=40 rate=40 ttft=0.2", **_scripted()}
    async with _watching(doors) as chat:
        _, seen = await _run(doors, producer, chat, turn, echo=True)
    _completed(seen)
    doors.say(
        f"   {seen.pieces} pieces, first after {seen.first_s:.2f} s, done {seen.last_s:.2f} s"
    )


async def _with_tool(doors: Doors, producer: AIOKafkaProducer) -> None:
    doors.say("2. A turn whose model calls a tool (the model is scripted, the tool is real).")
    turn = {"text": 'tool=calculate({"expression": "6 * 7"}) tokens=12 rate=40', **_scripted()}
    async with _watching(doors) as chat:
        _, seen = await _run(doors, producer, chat, turn, echo=True)
    _completed(seen)
    if not any("42" in line for line in seen.tools):
        raise DemoError(f"the tool did not answer 42: {seen.tools}")


async def _with_kill(doors: Doors, producer: AIOKafkaProducer) -> str:
    doors.say("3. One of two workers is killed (kill -9) while it emits a turn.")
    turn = {"text": "tokens=120 rate=40 ttft=0.1", **_scripted()}

    async def kill(turn_id: str) -> None:
        worker = await _worker_of(doors, turn_id)
        os.kill(worker, signal.SIGKILL)
        doors.say(f"   --- kill -9 {worker}: the worker that runs this turn is dead ---")

    async with _watching(doors) as chat:
        turn_id, seen = await _run(doors, producer, chat, turn, at_piece=(30, kill))
    _completed(seen)
    doors.say(
        f"   the client saw {seen.rewinds} rewind, and tokens again {seen.resumed_s:.2f} s "
        "after the kill; then the end"
    )
    doors.say("4. An auditor replays the topic, without Postgres.")
    replay = await _replay(doors, turn_id)
    for attempt in replay.attempts:
        doors.say(f"   attempt under epoch {attempt.epoch} by {attempt.worker}")
    for check in replay.checks:
        doors.say(f"   {check.what}: SHA-256 {check.recorded[:16]}… {check.verdict}")
    recorded = replay.checks[-1].recorded if replay.checks else ""
    same = text_sha256(seen.text) == recorded
    doors.say(f"   what the client shows has {'the same' if same else 'ANOTHER'} SHA-256")
    wrong = replay.problems or [c.what for c in replay.checks if c.verdict != "match"]
    if wrong or not same or len(replay.attempts) < 2:  # noqa: PLR2004  before and after the kill
        raise DemoError(f"the replay does not hold: {wrong}, {len(replay.attempts)} attempts")
    return turn_id


def _scripted() -> dict[str, object]:
    return {"config": {"configurable": {"model": "scripted"}}}


def _completed(seen: Seen) -> None:
    if seen.end is None or seen.end.status != "completed":
        raise DemoError(f"the turn did not complete: {seen.end}")


@contextlib.asynccontextmanager
async def _watching(doors: Doors) -> AsyncIterator[Chat]:
    thread_id = f"demo-{os.urandom(4).hex()}"
    async with Chat(doors.edge_url, thread_id) as chat:
        await chat.create()
        yield chat


async def _run(
    doors: Doors,
    producer: AIOKafkaProducer,
    chat: Chat,
    turn: dict[str, object],
    *,
    echo: bool = False,
    at_piece: tuple[int, Callable[[str], Awaitable[None]]] | None = None,
) -> tuple[str, Seen]:
    """Publish a turn to Kafka while the chat's socket watches its thread."""
    turn_id = str(new_turn_id())
    body = {"turn_id": turn_id, "thread_id": chat.thread_id, **turn}
    topic = doors.topics.turns_of(_TENANT)
    seen, killed_at, line = Seen(), 0.0, ""
    async with asyncio.timeout(TURN_TIMEOUT_S):
        pieces = chat.turn()
        first = asyncio.ensure_future(anext(pieces))
        await chat.subscribed()
        record = msgspec.json.encode(body)
        key = thread_key(_TENANT, chat.thread_id).encode()
        began = time.monotonic()
        landed = await producer.send_and_wait(topic, record, key=key)
        doors.say(f"   {topic}[{landed.partition}]@{landed.offset} <- {record.decode()}")
        piece = await first
        while True:
            now = time.monotonic() - began
            if isinstance(piece, End):
                seen.end, seen.last_s = piece, now
                break
            line = _take(seen, piece, now, line, doors.say if echo else None)
            if killed_at and seen.rewinds and piece.kind == "text" and not seen.resumed_s:
                seen.resumed_s = time.monotonic() - killed_at
            if at_piece is not None and seen.pieces == at_piece[0] and not killed_at:
                killed_at = time.monotonic()
                await at_piece[1](turn_id)
            piece = await anext(pieces)
    if line and echo:
        doors.say(f"   > {line}")
    return turn_id, seen


def _take(
    seen: Seen, piece: Piece, now: float, line: str, echo: Callable[[str], None] | None
) -> str:
    """Add a piece to what was seen; return the line that is still being said."""
    match piece.kind:
        case "text":
            seen.first_s = seen.first_s or now
            seen.pieces += 1
            seen.text += piece.text
            line += piece.text
            while echo and (len(line) > 90 or "\n" in line):  # noqa: PLR2004  a line's width
                said, line = _wrap(line)
                echo(f"   > {said}")
        case "rewound":
            seen.rewinds += 1
            seen.text, line = "", ""
        case "tool-started" | "tool-finished" | "tool-failed":
            seen.tools.append(f"{piece.kind} {piece.name} {piece.text}")
            seen.text, line = "", ""
            if echo:
                echo(f"   > {now:.2f} s  {seen.tools[-1]}")
        case "dropped":
            raise UnavailableError("the edge dropped the demo's socket")
        case _:
            pass
    return line


def _wrap(line: str) -> tuple[str, str]:
    head, newline, rest = line.partition("\n")
    if newline and len(head) <= 90:  # noqa: PLR2004
        return head, rest
    at = line.rfind(" ", 0, 90)
    at = at if at > 0 else 90
    return line[:at], line[at:].lstrip(" ")


async def _replay(doors: Doors, turn_id: str) -> TurnReplay:
    async with LogScan(doors.kafka_bootstrap) as log:
        replayer = Replayer(log, Codec(), doors.topics.events, partition_of, lambda *_: None)
        thread = await replayer.turn(turn_id, _TENANT)
        return thread.turns[turn_id]


async def _worker_of(doors: Doors, turn_id: str) -> int:
    """Return the process that runs the turn: its last attempt names host and pid."""
    replay = await _replay(doors, turn_id)
    pid = int(replay.attempts[-1].worker.rpartition("-")[2])
    if pid not in doors.workers:
        raise DemoError(f"{replay.attempts[-1].worker} is not a worker of this stack")
    return pid
