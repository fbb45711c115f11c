"""Bad input on the input topics: each has its named outcome, and a neighbour never notices."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
import uuid
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from turnstream.connectors.avro import Codec
from turnstream.schemas.records.commands import StartTurn
from turnstream.schemas.records.events import MessageStarted, TurnCompleted, TurnEnded, TurnFailed
from turnstream.schemas.text import text_sha256
from turnstream.streams.worker.entry.dead_letters import is_cut

CODEC = Codec()
TURN = "0d9a1f5e-53a5-4f4e-9a0e-b3a0a4f3a111"


def line(**fields: Any) -> bytes:
    return json.dumps({"thread_id": "bad", "text": "tokens=1", **fields}).encode()


def avro(**fields: Any) -> bytes:
    return CODEC.encode(StartTurn(thread_id="bad", **{"text": "tokens=1", **fields}))


@dataclass(frozen=True)
class Bad:
    """A record and the code of its dead letter; `topic` is `turns` or a tenant's."""

    code: str
    value: bytes | None
    key: bytes | None = None
    tenant: str | None = "default"


DEEP: Any = 1
for _ in range(600):
    DEEP = [DEEP]

TABLE: dict[str, Bad] = {
    "empty": Bad("empty", b""),
    "tombstone": Bad("empty", None, key=b"bad"),
    "random bytes": Bad("not_avro", bytes(range(7, 70))),
    "text that is no JSON": Bad("not_avro", b"start a turn please"),
    "cut JSON": Bad("not_json", b'{"thread_id": "bad", "te'),
    "JSON nested beyond reason": Bad("too_deep", b'{"a":' + b"[" * 50_000 + b"}"),
    "an input of 600 arrays": Bad("too_deep", line(text="", input=DEEP)),
    "an input of 600 arrays, as text": Bad("too_deep", line(text="", input=json.dumps(DEEP))),
    "an input of 600 arrays in Avro": Bad("too_deep", avro(text="", input=json.dumps(DEEP))),
    "metadata of 600 arrays": Bad("too_deep", line(metadata={"a": DEEP})),
    "an escape before 600 arrays": Bad("too_deep", line(config={"a": ["\ud83d", DEEP]})),
    "invalid UTF-8": Bad("not_json", b'{"thread_id": "bad", "text": "\xed\xa0\x80"}'),
    "an unknown command": Bad("unknown_type", line(type="DropTables")),
    "an unknown field": Bad("unknown_field", line(temperature=1)),
    "a missing field": Bad("missing_field", b'{"text": "tokens=1"}'),
    "a wrong type": Bad("wrong_type", line(priority="high")),
    "a wrong policy": Bad("wrong_type", line(on_busy="explode")),
    "a cut Avro record": Bad("corrupt", avro()[:-3]),
    "Avro with bytes left over": Bad("corrupt", avro() + b"\0"),
    "an unknown fingerprint": Bad("unknown_schema", b"\xc3\x01" + b"\x11" * 8 + b"rest"),
    "an unknown registry id": Bad("unknown_schema", b"\0" + (4711).to_bytes(4, "big") + b"rest"),
    "an event": Bad(
        "not_a_command",
        CODEC.encode(
            MessageStarted(
                event_id="e",
                tenant="default",
                thread_id="bad",
                turn_id=TURN,
                epoch=1,
                n=1,
                message_id="m",
            )
        ),
    ),
    "no text": Bad("invalid_input", line(text="")),
    "text and input": Bad("invalid_input", line(input={"messages": []})),
    "oversized text": Bad("text_too_long", line(text="x" * 200_001)),
    "oversized input": Bad("text_too_long", line(text="", input={"a": "x" * 200_001})),
    "input that is no JSON": Bad("invalid_input", line(text="", input="{")),
    "config that is no object": Bad("invalid_config", line(config=[1])),
    "metadata that is no JSON": Bad("invalid_metadata", line(metadata="]")),
    "a turn id that is no UUID": Bad("invalid_turn_id", line(turn_id="turn-1")),
    "a cancel without a turn": Bad(
        "missing_field", line(type="CancelTurn")[:-1].replace(b', "text": "tokens=1"', b"") + b"}"
    ),
    "answers to nothing": Bad(
        "invalid_answers", b'{"type": "ResumeTurn", "thread_id": "bad", "answers": {}}'
    ),
    "an empty thread id": Bad("invalid_thread_id", line(thread_id="")),
    "a thread id with NUL": Bad("invalid_thread_id", line(thread_id="a\x00b")),
    "a thread id with a line break": Bad("invalid_thread_id", line(thread_id="a\nb")),
    "a thread id with a lone surrogate": Bad(
        "invalid_thread_id", b'{"thread_id": "a\\ud800b", "text": "x"}'
    ),
    "a thread id too long": Bad("invalid_thread_id", line(thread_id="x" * 10_000)),
    "a thread id with spaces around": Bad("invalid_thread_id", line(thread_id=" bad ")),
    "a label too long": Bad("invalid_correlation_id", line(correlation_id="x" * 501)),
    "a label with NUL": Bad("invalid_actor", line(actor="a\x00")),
    "an expiry beyond the calendar": Bad("invalid_expires_at", line(expires_at=2**62)),
    "an expiry beyond 64 bits": Bad("invalid_expires_at", line(expires_at=2**64 - 1)),
    "an expiry beyond any number": Bad("invalid_expires_at", line(expires_at=10**400)),
    "an expiry before the epoch": Bad("invalid_expires_at", line(expires_at=-1)),
    "an expiry of -2^63 in Avro": Bad("invalid_expires_at", avro(expires_at=-(2**63))),
    "an expiry in the year 294247": Bad("invalid_expires_at", avro(expires_at=2**63 - 1)),
    "an expiry that is no whole number": Bad("wrong_type", line(expires_at=1.5)),
    "a time beyond 64 bits": Bad("invalid_at", line(at=2**64 - 1)),
    "a time before the epoch in Avro": Bad("invalid_at", avro(at=-1)),
    "a priority beyond 64 bits": Bad("invalid_priority", line(priority=2**64 - 1)),
    "a policy that Avro lets pass": Bad("invalid_on_busy", avro(on_busy="explode")),
    "an input with a huge integer": Bad("number_out_of_range", line(text="", input=[2**70])),
    "an input of null": Bad("invalid_input", line(text="", input="null")),
    "oversized metadata": Bad("metadata_too_large", line(metadata={"a": "x" * 65_536})),
    "oversized config": Bad("config_too_long", line(config={"a": "x" * 200_000})),
    "oversized answers": Bad(
        "answers_too_long",
        json.dumps(
            {"type": "ResumeTurn", "thread_id": "bad", "answers": {"a": "x" * 200_000}}
        ).encode(),
    ),
    "a configurable that is no object": Bad("invalid_config", line(config={"configurable": [1]})),
    "an array": Bad("not_an_object", b"[" + line() + b"]"),
    "the key of another thread": Bad("key_mismatch", line(), key=b"default/other"),
    "the key of another tenant": Bad("key_mismatch", line(), key=b"acme/bad"),
    "another tenant than the topic's": Bad("tenant_mismatch", line(tenant="acme")),
    "no tenant where the body names it": Bad("invalid_tenant", line(), tenant=None),
    "a tenant with a slash": Bad("invalid_tenant", line(tenant="a/b"), tenant=None),
}


async def test_each_bad_record_has_its_dead_letter_and_no_neighbour_waits(scene) -> None:
    """All of them at once, between good turns of the same partition."""
    sent: dict[tuple[str, int, int], tuple[str, Bad]] = {}
    async with scene.worker():
        good = []
        for index, (name, bad) in enumerate(TABLE.items()):
            topic = scene.topics.turns_of(bad.tenant) if bad.tenant else scene.topics.turns
            partition, offset = await scene.send(
                bad.value, key=bad.key, topic=topic, partition=index % 2
            )
            sent[topic, partition, offset] = (name, bad)
            if index % 5 == 0:
                turn = str(uuid.uuid4())
                await scene.send(
                    {"thread_id": f"good-{index}", "text": "tokens=3", "turn_id": turn},
                    partition=index % 2,
                )
                good.append((f"good-{index}", turn))
        await scene.until(lambda: len(scene.letters) >= len(sent))
        for thread, turn in good:
            view = await scene.done(thread, turn)
            assert isinstance(view.terminal, TurnCompleted)
    letters = {(x.topic, x.partition, x.offset): x for x in scene.letters}
    assert len(letters) == len(scene.letters) == len(sent)
    wrong = {
        name: (bad.code, letters[place].code)
        for place, (name, bad) in sent.items()
        if letters[place].code != bad.code
    }
    assert not wrong
    for place, (name, bad) in sent.items():
        letter = letters[place]
        assert letter.value == (bad.value or b""), name
        assert letter.key == (bad.key or b""), name
        assert letter.message, name
        assert letter.tenant == (bad.tenant or ""), name
    assert await scene.db.fetchval("SELECT count(*) FROM turns") == len(good)


async def test_an_unknown_graph_is_a_failed_turn(scene) -> None:
    async with scene.worker():
        turn = await scene.start("t1", "hello", graph="nobody", correlation_id="c")
        view = await scene.done("t1", turn)
        assert isinstance(view.terminal, TurnEnded)
        assert (view.terminal.outcome, view.terminal.code) == ("failed", "unknown_graph")
        result = (await scene.until(lambda: scene.results))[0]
        assert (result.status, result.code, result.correlation_id) == (
            "failed",
            "unknown_graph",
            "c",
        )
        await scene.closed(turn)
        assert not scene.letters


async def test_the_same_turn_id_with_the_same_and_with_another_body(scene) -> None:
    async with scene.worker():
        turn = await scene.start("t1", "tokens=3")
        await scene.start("t1", "tokens=3", turn_id=turn)  # a redelivery: nothing happens
        await scene.start("t1", "tokens=4", turn_id=turn)  # something else: refused
        after = await scene.start("t1", "tokens=2")
        await scene.done("t1", turn)
        await scene.done("t1", after)
        letter = (await scene.until(lambda: scene.letters))[0]
        assert letter.code == "turn_id_reused"
        assert json.loads(letter.value)["text"] == "tokens=4"
        assert len(scene.letters) == 1
        await scene.closed(after)
        assert await scene.db.fetchval("SELECT count(*) FROM turns") == 2
        await scene.until(lambda: len(scene.results) >= 3)
        # the turn's id is the first command's: the refused one has its letter's
        ids = {result.turn_id: result.code for result in scene.results}
        assert ids == {turn: "", after: "", letter.letter_id: "dead_letter"}


async def test_nul_and_lone_surrogates_in_text_become_visible(scene) -> None:
    async with scene.worker():
        turn = str(uuid.uuid4())
        value = '{"thread_id": "t1", "turn_id": "%s", "text": "a\\u0000b \\ud800 c \\ud83d\\ude00"}'
        await scene.send((value % turn).encode())
        view = await scene.done("t1", turn)
        assert isinstance(view.terminal, TurnCompleted), view.terminal
        # a message without directives is echoed by the scripted model
        assert view.terminal.text == "a\ufffdb \ufffd c \U0001f600"


UNREADABLE = [
    [{"content": "SECRET"}],
    [{"role": "SECRET", "content": "SECRET"}],
    [{"role": "user", "SECRET": 1}],
    [{"role": "user", "content": {"SECRET": 1}}],
    [{"role": "tool", "content": "SECRET"}],
    [{"type": "human", "content": 7, "name": "SECRET"}],
    [["SECRET", "a", "b"]],
    [7, "SECRET"],
    {"SECRET": "SECRET"},
    7,
]


async def test_messages_that_cannot_be_read_are_a_failed_turn_without_their_text(
    scene, capfd
) -> None:
    async with scene.worker():
        for number, messages in enumerate(UNREADABLE):
            await scene.start(f"t{number}", "", input={"messages": messages})
        await scene.start("t", "", input='"SECRET"')
        await scene.start("calm", "tokens=1")
        await scene.until(lambda: len(scene.results) >= len(UNREADABLE) + 2)
    by_thread = {result.thread_id: result for result in scene.results}
    assert by_thread.pop("calm").status == "completed"
    wrong = {t: (r.status, r.code) for t, r in by_thread.items() if r.code != "invalid_input"}
    assert not wrong
    assert not any("SECRET" in result.message for result in scene.results)
    assert "SECRET" not in "".join(capfd.readouterr())


STRANGE = [
    "한국어 스레드",
    "a/b/c",
    "a:b|c",
    "..",
    "%00",
    "x" * 200,
    "'; DROP TABLE turns; --",
    "🦊",
]


async def test_strange_thread_ids_are_only_names(scene) -> None:
    async with scene.worker():
        turns = [(thread, await scene.start(thread, "tokens=2")) for thread in STRANGE]
        for thread, turn in turns:
            view = await scene.done(thread, turn)
            assert isinstance(view.terminal, TurnCompleted)
        assert not scene.letters


async def test_avro_and_a_record_without_a_key(scene) -> None:
    async with scene.worker():
        partition, offset = await scene.send(
            CODEC.encode(StartTurn(thread_id="t1", text="tokens=2"))
        )
        result = (await scene.until(lambda: scene.results))[0]
        assert result.status == "completed"
        # its turn id follows from where the record lies: at a redelivery it is the same
        ids = await scene.db.fetch("SELECT turn_id, src_part, src_off FROM turns")
        assert [(r["src_part"], r["src_off"]) for r in ids] == [(partition, offset)]
        assert uuid.UUID(result.turn_id).version == 5


LETTER = b"0d9a1f5e-53a5-4f4e-9a0e-b3a0a4f3a111"
FOREIGN = [
    (b'\xef\xbb\xbf{"thread_id": "t0", "text": "tokens=1"}', []),
    (b'\r\n {"thread_id": "t1", "text": "tokens=1", "input": null, "expires_at": null}\n', []),
    (b'{"thread_id": "t2", "text": "tokens=1", "priority": 1.0, "answers": null}', []),
    (b'{"thread_id": "t3", "text": "tokens=1"}', [("letter", None), ("requeues", b"1")]),
    (b'{"thread_id": "t4", "text": "tokens=1"}', [("letter", LETTER), ("requeues", None)]),
    (b'{"thread_id": "t5", "text": "tokens=1"}', [("letter", b"\xff"), ("requeues", b"9" * 5000)]),
    (
        b'{"thread_id": "t6", "text": "tokens=1"}',
        [("requeues", b""), ("letter", LETTER), ("letter", None)],
    ),
]


async def test_lines_and_headers_as_other_programs_write_them(scene) -> None:
    async with scene.worker():
        for value, headers in FOREIGN:
            await scene.send(value, headers=headers)
        await scene.until(lambda: len(scene.results) + len(scene.letters) >= len(FOREIGN))
        assert not scene.letters
        assert {r.thread_id for r in scene.results} == {f"t{i}" for i in range(len(FOREIGN))}
        assert {r.status for r in scene.results} == {"completed"}


async def test_an_idempotency_key_makes_the_turn_id(scene) -> None:
    async with scene.worker():
        for _ in range(2):
            await scene.send({"thread_id": "t1", "text": "tokens=2", "idempotency_key": "order-7"})
        await scene.until(lambda: scene.results)
        await scene.send({"thread_id": "t1", "text": "tokens=1"})
        await scene.until(lambda: len(scene.results) == 2)
        assert not scene.letters


GRAPHS = """
from langchain_core.messages import AIMessage
from langgraph.config import get_stream_writer
from langgraph.graph import END, START, MessagesState, StateGraph


def custom(state):
    get_stream_writer()({"payload": "x" * 5_000_000})
    return {}


def long_answer(state):
    return {"messages": [AIMessage("y" * 5_000_000, id="long")]}


def one(node):
    graph = StateGraph(MessagesState)
    graph.add_node("node", node)
    graph.add_edge(START, "node")
    graph.add_edge("node", END)
    return graph


custom_graph = one(custom)
answer_graph = one(long_answer)
"""


async def test_records_larger_than_the_topic_allows_hurt_their_own_turn_only(
    scene, tmp_path: Path
) -> None:
    (tmp_path / "graphs.py").write_text(GRAPHS)
    config = tmp_path / "langgraph.json"
    config.write_text(
        json.dumps(
            {"graphs": {"custom": "./graphs.py:custom_graph", "long": "./graphs.py:answer_graph"}}
        )
    )
    async with scene.worker(langgraph_json=config):
        neighbour = await scene.start("calm", "tokens=60 rate=40")
        custom = await scene.start("custom", "hi", graph="custom")
        answer = await scene.start("long", "hi", graph="long")
        view = await scene.done("custom", custom)
        assert isinstance(view.terminal, TurnFailed)
        assert view.terminal.code == "record_too_large"
        # text goes in pieces; only the terminal and the result, which repeat it, go without it
        view = await scene.done("long", answer)
        assert isinstance(view.terminal, TurnCompleted)
        assert view.terminal.text == ""
        assert view.terminal.sha256 == text_sha256("y" * 5_000_000)
        assert await scene.text_of("long", answer) == "y" * 5_000_000
        await scene.closed(answer)
        view = await scene.done("calm", neighbour)
        assert isinstance(view.terminal, TurnCompleted)
        assert view.gaps == 0
        assert view.attempts == 1
    await scene.until(lambda: {custom, answer} <= {result.turn_id for result in scene.results})
    results = {result.turn_id: result for result in scene.results}
    assert results[answer].text == ""
    assert results[answer].sha256 == text_sha256("y" * 5_000_000)
    assert results[custom].code == "record_too_large"


BAD_RECORDS = 20_000


async def test_a_flood_of_bad_records_beside_a_neighbour(scene: Any) -> None:
    """How long the neighbour waits is printed and not judged."""
    topic = scene.topics.turns_of("default")
    async with scene.worker() as worker:
        began = time.monotonic()
        sends = [
            await scene.producer.send(topic, b"bad %d" % number, partition=number % 2)
            for number in range(BAD_RECORDS)
        ]
        await scene.until(lambda: scene.letters)
        sent, turn = time.monotonic(), str(uuid.uuid4())
        calm = {"thread_id": "calm", "text": "tokens=3", "turn_id": turn}
        await scene.send(calm, partition=3)
        view = await scene.done("calm", turn)
        waited_s, letters = time.monotonic() - sent, len(scene.letters)
        print(f"the neighbour was served in {waited_s:.2f} s, after {letters} dead letters")
        assert isinstance(view.terminal, TurnCompleted)
        await asyncio.gather(*sends)
        await scene.until(lambda: len(scene.letters) >= BAD_RECORDS)
        print(f"{BAD_RECORDS} dead letters after {time.monotonic() - began:.2f} s")
        assert not worker.not_ready()
    places = Counter((letter.partition, letter.offset) for letter in scene.letters)
    assert len(places) == sum(places.values()) == BAD_RECORDS
    await scene.until(lambda: len(scene.results) >= BAD_RECORDS + 1)
    codes = Counter(result.code for result in scene.results)
    assert codes == {"": 1, "dead_letter": BAD_RECORDS}


async def test_a_letter_that_its_topic_refuses_as_too_large_is_cut(scene: Any) -> None:
    """Somebody lowered `max.message.bytes` of dead-letters while workers run."""
    admin = AIOKafkaAdminClient(bootstrap_servers=scene.settings.kafka_bootstrap)
    await admin.start()
    try:
        await admin.alter_configs(
            [
                ConfigResource(
                    ConfigResourceType.TOPIC,
                    scene.topics.dead_letters,
                    configs={"max.message.bytes": "300000", "cleanup.policy": "delete"},
                )
            ]
        )
    finally:
        await admin.close()
    value = b"x" * 500_000
    async with scene.worker():
        await scene.send(value)
        await scene.until(lambda: scene.letters)
        turn = await scene.start("t1", "tokens=2")
        assert isinstance((await scene.done("t1", turn)).terminal, TurnCompleted)
    (letter,) = scene.letters
    assert is_cut(letter)
    assert value.startswith(letter.value)
    assert hashlib.sha256(value).hexdigest() in letter.message
    assert "500000" in letter.message
