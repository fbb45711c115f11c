"""What arrives as bytes on the input topics: every codec, bombs, damage on the broker's disk.

One worker process meets all of it. What cannot be read is one dead letter, and its neighbours run.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
import uuid
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.client import AIOKafkaClient
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.util import calc_crc32c

from turnstream.connectors.avro import Codec
from turnstream.connectors.kafka.wire.connection import Wire
from turnstream.connectors.kafka.wire.produce_request import (
    API_KEY,
    API_VERSION,
    produce_answers,
    produce_request,
)
from turnstream.schemas.ids import turn_id_of_record
from turnstream.schemas.records.commands import StartTurn
from turnstream.schemas.records.events import TurnCompleted

if TYPE_CHECKING:
    from outage_servers import Servers

HEADER = 61
MIB = 1 << 20
BOMB_MIB = 700
GROWTH_MIB_MAX = 400
"""Of a worker's peak; the bomb alone has 700 MiB, and took 1,400 where nothing bounded it."""

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def kafka(servers: Servers) -> str:
    return servers.stack.kafka_bootstrap


def varint(value: int) -> bytes:
    value = value << 1 ^ value >> 63
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*out, value))


def batch(values: list[bytes], headers: Any = ()) -> bytes:
    builder = DefaultRecordBatchBuilder(2, 0, 0, -1, -1, -1, 1 << 22)
    for at, value in enumerate(values):
        builder.append(at, 1000, None, value, list(headers))
    return bytes(builder.build())


def signed(head: bytearray, data: bytes, codec: int) -> bytes:
    head[22] = codec
    head[8:12] = (HEADER - 12 + len(data)).to_bytes(4, "big")
    raw = bytes(head) + data
    return raw[:17] + calc_crc32c(raw[21:]).to_bytes(4, "big") + raw[21:]


def bomb() -> bytes:
    """A batch of one record of 700 MiB of one letter, in gzip."""
    size, letters = BOMB_MIB * MIB, b"a" * MIB
    fields = b"\0" + varint(0) + varint(0) + varint(-1) + varint(size)
    packer = zlib.compressobj(6, wbits=31)
    parts = [packer.compress(varint(len(fields) + size + 1) + fields)]
    parts += [packer.compress(letters) for _ in range(BOMB_MIB)]
    parts += [packer.compress(b"\0"), packer.flush()]
    return signed(bytearray(batch([b"x"])[:HEADER]), b"".join(parts), 1)


async def produce(kafka: str, to: TopicPartition, raw: bytes) -> int:
    """Append a batch as it is; returns its offset."""
    client = AIOKafkaClient(bootstrap_servers=kafka)
    await client.bootstrap()
    try:
        await client._wait_on_metadata(to.topic)
        wire = await Wire.open(client, client.cluster.leader_for_partition(to), 60.0)
        body = produce_request({to: raw}, timeout_ms=60_000)
        answer = await wire.request(API_KEY, API_VERSION, body)
        ((_, _, error, offset),) = produce_answers(*answer)
        assert error == 0
        wire.close()
        return offset
    finally:
        await client.close()


def peak_mib(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) // 1024


async def metric(port: int, name: str) -> float:
    async with (
        aiohttp.ClientSession() as http,
        http.get(f"http://127.0.0.1:{port}/metrics") as response,
    ):
        lines = (await response.text()).splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))


async def test_a_worker_reads_every_codec_and_survives_what_it_cannot_read(
    scene: Any, kafka: str, servers: Servers
) -> None:
    topic = scene.topics.turns_of("default")
    to = TopicPartition(topic, 0)
    turns: dict[str, str] = {}  # thread to turn

    def line(name: str) -> bytes:
        turns[name] = str(uuid.uuid4())
        fields = {"thread_id": name, "text": "tokens=2", "turn_id": turns[name]}
        return json.dumps(fields).encode()

    async def good(name: str) -> int:
        done = await scene.producer.send_and_wait(topic, line(name), partition=0)
        return int(done.offset)

    # written before any worker reads: a damaged batch lies between whole ones
    for codec in ("gzip", "snappy", "lz4", "zstd"):
        async with AIOKafkaProducer(bootstrap_servers=kafka, compression_type=codec) as producer:
            await producer.send_and_wait(topic, line(codec), partition=0)
    # its names, and the values of its own headers, are whatever a client writes
    await produce(kafka, to, batch([line("nulls")], [("letter", None), ("requeues", None)]))
    data = batch([line("latin")], [("nam\x41", b"x")]).replace(b"nam\x41", b"nam\xe9")
    await produce(kafka, to, signed(bytearray(data[:HEADER]), data[HEADER:], 0))
    damaged: dict[int, tuple[int, str]] = {}  # first offset to the offset after, and the code
    for flaw in ("check sum", "codec", "gzip"):
        first = await produce(kafka, to, batch([flaw.encode() * 20] * 3))
        damaged[first] = (first + 3, "")
        await good(f"after the {flaw}")
    flaws = dict(zip(damaged, ("bad_crc", "unknown_codec", "corrupt_batch"), strict=True))
    for first, code in flaws.items():
        damaged[first] = (damaged[first][0], code)
    damage(servers, to, flaws)

    worker = scene.process("hostile")
    await worker.ready()
    await scene.until(lambda: len(scene.results) >= len(turns) + 9)
    before = peak_mib(worker.process.pid)
    first = await produce(kafka, to, await asyncio.to_thread(bomb))
    damaged[first] = (first + 1, "batch_too_large")
    await good("after the bomb")
    for name, turn in turns.items():
        view = await scene.done(name, turn)
        assert isinstance(view.terminal, TurnCompleted), name
        assert view.attempts == 1
    await scene.until(lambda: len(scene.letters) >= len(damaged))
    assert worker.process.poll() is None
    assert peak_mib(worker.process.pid) - before < GROWTH_MIB_MAX

    letters = {letter.offset: letter for letter in scene.letters}
    assert letters.keys() == damaged.keys()
    for first, (end, code) in damaged.items():
        letter = letters[first]
        assert (letter.code, letter.tenant, letter.partition) == (code, "default", 0)
        assert f"offset{'s' if end > first + 1 else ''} {first}" in letter.message
        assert letter.value[16] == 2  # the batch as it lies in the log
    # each offset of the damaged is a turn that has its result
    topic_id = await _topic_id(scene, topic)
    places = [o for first, (end, _) in damaged.items() for o in range(first, end)]
    wanted = {str(turn_id_of_record(topic_id, 0, offset)) for offset in places}
    await scene.until(lambda: len(scene.results) >= len(turns) + len(wanted))
    rejected = {r.turn_id for r in scene.results if r.code == "dead_letter"}
    assert rejected == wanted
    # items in = results + dead letters; an unreadable batch counts once
    passed = await metric(worker.port, "turnstream_records_passed")
    admitted = await metric(worker.port, "turnstream_commands_admitted")
    refused = await metric(worker.port, "turnstream_dead_letters")
    assert (passed, admitted, refused) == (len(turns) + len(damaged), len(turns), len(damaged))
    assert await worker.terminate() == 0


def damage(servers: Servers, to: TopicPartition, flaws: dict[int, str]) -> None:
    """Damage batches where the broker keeps them; they begin at these offsets."""
    (path,) = Path(servers.stack.folder.path).glob(f"**/{to.topic}-{to.partition}/{0:020d}.log")
    log = bytearray(path.read_bytes())
    at = 0
    while at < len(log):
        base, length = int.from_bytes(log[at : at + 8], "big"), log[at + 8 : at + 12]
        end = at + 12 + int.from_bytes(length, "big")
        match flaws.get(base):
            case "bad_crc":
                log[end - 5] ^= 1
            case "unknown_codec" | "corrupt_batch" as code:
                log[at + 22] |= 5 if code == "unknown_codec" else 1
                log[at + 17 : at + 21] = calc_crc32c(bytes(log[at + 21 : end])).to_bytes(4, "big")
        at = end
    with path.open("r+b") as file:
        file.write(log)


async def _topic_id(scene: Any, topic: str) -> str:
    from turnstream.connectors.kafka.admin import TopicAdmin

    async with TopicAdmin(scene.settings.kafka_bootstrap) as admin:
        return str((await admin.ids([topic]))[topic])


def bag() -> list[tuple[bytes, list[tuple[str, Any]]]]:
    """Values and headers that a client may write: each is a turn or a dead letter, none stops."""
    ok = {"thread_id": "bag", "text": "tokens=1"}

    def line(**fields: Any) -> bytes:
        return json.dumps({**ok, **fields}).encode()

    lines = [
        line(expires_at=18_446_744_073_709_551_615),
        line(expires_at=-1),
        line(expires_at=2**63 - 1),
        line(at=2**64, priority=-(2**63)),
        line(priority=10**400),
        b'{"thread_id":"bag","text":"x","at":1e999}',
        b'{"thread_id":"bag","text":"x","at":NaN}',
        b'{"thread_id":"bag","text":"","input":' + b'{"a":' * 5000 + b"1" + b"}" * 5000 + b"}",
        b"[" * 100_000,
        line(text="", input=json.dumps({"a": "\x00\ud800"})),
        line(metadata={"\x00": "\ud800"}, config={"configurable": {"thread_id": "\x00"}}),
        line(config={"recursion_limit": 10**30}),
        line(correlation_id="\ud83d", idempotency_key="\x00"),
        line(graph=""),
        line(text=None),
        line(text=["x"]),
        line(tenant=None),
        line(type=None),
        line(turn_id="\ud800"),
        b'{"thread_id":"bag","text":"a","text":"b"}',
        b"\xef\xbb\xbf" + line(),
        b"{}",
        b"{" * 1000,
        b'{"thread_id":"\xff","text":"x"}',
        b"\x00" * 1000,
        b"\xc3\x01" + b"\xff" * 100,
        line(text="x" * 900_000),
    ]
    headers: list[list[tuple[str, Any]]] = [
        [("letter", None)],
        [("letter", None), ("requeues", None)],
        [("requeues", b"\xff"), ("letter", b"\xff")],
        [("requeues", b"9" * 5000), ("letter", b"00000000-0000-0000-0000-000000000000")],
        [("requeues", b"-1"), ("letter", b"x" * 1000)],
        [("traceparent", None), ("", None), ("type", b"\xff"), ("type", None)],
    ]
    whole = Codec().encode(StartTurn(thread_id="bag", text="tokens=1"))
    rng = random.Random(5)
    for _ in range(150):
        data = bytearray(whole)
        for _ in range(rng.choice((1, 1, 3))):
            data[rng.randrange(10, len(data))] = rng.randrange(256)
        lines.append(bytes(data))
    return [(one, []) for one in lines] + [(line(), one) for one in headers]


async def test_each_hostile_record_has_one_result(scene: Any) -> None:
    sent: dict[tuple[str, int, int], bytes] = {}
    topic = scene.topics.turns_of("default")
    async with scene.worker() as worker:
        for value, headers in bag():
            done = await scene.producer.send_and_wait(topic, value, headers=headers, partition=1)
            sent[topic, 1, done.offset] = value
        turn = await scene.start("neighbour", "tokens=3")
        assert (await scene.done("neighbour", turn)).terminal is not None
        await scene.until(lambda: len({r.turn_id for r in scene.results}) > len(sent))
        assert not worker.not_ready()
    letters = {(x.topic, x.partition, x.offset): x for x in scene.letters}
    assert len(letters) == len(scene.letters)
    rows = await scene.db.fetch("SELECT src_part, src_off FROM turns WHERE turn_id <> $1", turn)
    admitted = {(topic, row["src_part"], row["src_off"]) for row in rows}
    # items in = turns + dead letters, and each of both has its result
    assert letters.keys() | admitted == sent.keys()
    assert not letters.keys() & admitted
    rejected = {r.letter_id for r in scene.results if r.code == "dead_letter"}
    assert rejected == {letter.letter_id for letter in scene.letters}
    assert len(scene.results) >= len(sent) + 1


async def test_an_end_whose_command_is_damaged_keeps_no_other_from_being_told(scene: Any) -> None:
    """Turns expire in the queue; the ledger's copy of one's command cannot be read any more."""
    async with scene.worker():
        busy = await scene.start("t1", "tokens=400 rate=50")
        soon = (time.time_ns() + 3_000_000_000) // 1000
        turns = [await scene.start("t1", "x", expires_at=soon) for _ in range(3)]
        damaged = uuid.UUID(turns[1])
        async with asyncio.timeout(60):
            while (
                await scene.db.execute(
                    "UPDATE turns SET body = $1 WHERE turn_id = $2", b"\xff", damaged
                )
                != "UPDATE 1"
            ):
                await asyncio.sleep(0.01)
        for turn in turns:
            view = await scene.done("t1", turn)
            assert (view.terminal.outcome, view.terminal.code) == ("failed", "expired")
            await scene.closed(turn)
        await scene.cancel("t1", busy)
        await scene.done("t1", busy)
    told = {result.turn_id: result.code for result in scene.results}
    assert {turn: told[turn] for turn in turns} == dict.fromkeys(turns, "expired")
