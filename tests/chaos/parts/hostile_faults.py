"""Faults that come from users: records, model answers and graphs that should not be.

Each checks when it is healed that nothing was lost of what it sent: every record is a dead letter,
every turn of a hostile graph has failed. That its neighbours did not notice is for the invariants.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import itertools
import json
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

from aiokafka.errors import KafkaError

from tests.chaos.faults import NothingToStrikeError, fault
from tests.chaos.graphs.hostile import WAYS

if TYPE_CHECKING:
    from random import Random

    from tests.chaos.parts.links import Link

TENANT = "default"
HEAL_S = 60.0
_names = itertools.count()
Headers = list[tuple[str, bytes | None]]


def _nested(depth: int) -> str:
    return "[" * depth + "]" * depth


def hostile_record(random: Random) -> tuple[bytes | None, Headers]:
    """Return the value and the headers of a record that has to become a dead letter."""
    huge = random.choice((2**63, 2**64 - 1, -(2**63), 10**30))
    text = random.choice(
        (
            f'{{"thread_id":"p","text":"x","expires_at":{huge}}}',
            f'{{"thread_id":"p","text":"x","priority":{abs(huge)}}}',
            f'{{"thread_id":"p","input":{_nested(600)}}}',
            f'{{"thread_id":"p","text":"x","metadata":{{"a":{_nested(100_000)}}}}}',
            '{"thread_id":"p","text":"x","typo":1}',
            '{"thread_id":"p"}',
            '{"type":"ResumeTurn","thread_id":"p","answers":[]}',
            '{"type":"CancelTurn","thread_id":"p"}',
            f'{{"thread_id":"p","text":"{"x" * 250_000}"}}',
            '{"thread_id":"\\u0000","text":"x"}',
            '{"thread_id":"p","text":"x"',
            "\ufeff",
            "null",
        )
    )
    value = random.choice(
        (
            text.encode(),
            text.encode(),
            None,
            b"",
            random.randbytes(random.randint(1, 300)),
            b"\xc3\x01" + random.randbytes(random.randint(0, 60)),
            b"\x00" + random.randbytes(random.randint(0, 60)),
            gzip.compress(text.encode()),
        )
    )
    headers: list[Headers] = [
        [],
        [("letter", None)],
        [("letter", b"\xff"), ("requeues", None)],
        [("requeues", b"9" * 5000)],
        [("traceparent", b"\x00\xff")],
    ]
    return value, random.choice(headers)


@fault
class HostileRecords:
    """A burst of records on the tenant's input topic that no worker can take."""

    name = "hostile-records"
    scope = "stage"
    lasts_s = 0.5
    count = 8

    def __init__(self) -> None:
        self._sent: set[tuple[int, int]] = set()

    async def strike(self, stage: Any) -> None:
        """Produce them."""
        topic = stage.settings.topics.turns_of(TENANT)
        for _ in range(self.count):
            value, headers = hostile_record(stage.random)
            try:
                done = await stage.producer.send_and_wait(topic, value, key=b"p", headers=headers)
            except KafkaError as error:
                raise NothingToStrikeError(f"Kafka is away: {error!r}") from error
            self._sent.add((done.partition, done.offset))

    async def heal(self, stage: Any) -> None:
        """Wait until each is a dead letter."""
        topic = stage.settings.topics.turns_of(TENANT)

        def all_there() -> bool:
            there = {(o.partition, o.offset) for o in stage.log.letters if o.topic == topic}
            return self._sent <= there

        await stage.until(all_there, f"dead letters of {sorted(self._sent)}", HEAL_S)


@fault
class HostileGraphs:
    """Turns of a graph that exits, cancels itself, or gives what cannot be stored."""

    name = "hostile-graphs"
    scope = "stage"
    lasts_s = 0.5
    count = 3

    def __init__(self) -> None:
        self._turns: dict[UUID, str] = {}

    async def strike(self, stage: Any) -> None:
        """Start them, each on a thread of its own."""
        for way in stage.random.sample(WAYS, self.count):
            turn = uuid4()
            thread = f"{stage.name}-hostile-{next(_names)}"
            command = {"turn_id": str(turn), "graph": "hostile", "text": way}
            await stage.send(thread, command)
            self._turns[turn] = way

    async def heal(self, stage: Any) -> None:
        """Wait until each has failed."""
        query = (
            "SELECT turn_id, outcome FROM turns"
            " WHERE turn_id = ANY ($1) AND closed_at IS NOT NULL AND outcome IS NOT NULL"
        )

        async def all_failed() -> bool:
            rows = await stage.ask(query, list(self._turns))
            ended = {row["turn_id"]: json.loads(row["outcome"]) for row in rows}
            for turn, outcome in ended.items():
                assert outcome["status"] == "failed", (self._turns[turn], outcome)
            return len(ended) == len(self._turns)

        await stage.until(all_failed, f"ends of hostile graphs: {self._turns}", HEAL_S)


def _head(kind: str, status: str = "200 OK") -> str:
    return f"HTTP/1.1 {status}\r\ncontent-type: {kind}\r\nconnection: close\r\n\r\n"


_HEAD = _head("text/event-stream")
_TOKEN = 'data: {"choices":[{"index":0,"delta":{"content":"half"}}]}\n\n'
ANSWERS = (
    _HEAD + _TOKEN + 'error: {"code":500,"message":"x"}\n\ndata: [DONE]\n\n',
    _HEAD + _TOKEN + 'data: {"object":"error","message":"m","code":500}\n\ndata: [DONE]\n\n',
    _HEAD + 'data: {"error":{"message":"overloaded","code":"503"}}\n\n',
    _HEAD + _TOKEN + "data: [DONE]\n\n",
    _HEAD + _TOKEN + 'data: {"choices":[{"index":0,"delta":{},"finish_reason":"error"}]}\n\n',
    _HEAD + _TOKEN + "data: {not json\n\n",
    _HEAD + _TOKEN,
    _HEAD + "data: " + "x" * 100_000,
    _HEAD + "<html>down</html>",
    _head("text/html") + "<html>down</html>",
    _head("text/html", "502 Bad Gateway") + "<html>down</html>",
    _head("application/json") + '{"error":{"message":"quota exceeded","code":429}}',
    "SSH-2.0-OpenSSH\r\n",
)
"""None of them is a whole answer: a turn that completes with the text of one breaks invariant 2."""


@fault
class HostileAnswers:
    """The model's address leads for a while to a server whose answers are no answers."""

    name = "hostile-answers"
    scope = "stage"
    lasts_s = 1.5
    may_fail = True

    def __init__(self) -> None:
        self._link: Link | None = None

    async def strike(self, stage: Any) -> None:
        """Lead the model's link to it."""
        random = stage.random

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(ConnectionError):
                if await reader.read(1 << 20):
                    writer.write(random.choice(ANSWERS).encode())
                    await writer.drain()
            writer.close()

        self._hostile = await asyncio.start_server(answer, "127.0.0.1", 0)
        port = self._hostile.sockets[0].getsockname()[1]
        self._link = stage.servers.models[stage.name]
        await asyncio.to_thread(self._link.lead_to, f"127.0.0.1:{port}")

    async def heal(self, stage: Any) -> None:
        """Lead it to the model again."""
        if self._link is not None:
            await asyncio.to_thread(self._link.lead_back)
            self._hostile.close()
            self._link = None
