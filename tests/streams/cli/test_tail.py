"""`turnstream tail`: what is wanted, as lines, and the command over a real log."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import uuid
from datetime import UTC, datetime, timedelta

import pytest
from aiokafka import AIOKafkaProducer

from turnstream.connectors.avro import Codec
from turnstream.connectors.kafka.admin import TopicAdmin
from turnstream.connectors.kafka.read.scan import RawRecord
from turnstream.schemas.errors import InvalidRequestError
from turnstream.schemas.ids import event_id
from turnstream.schemas.records import events as ev
from turnstream.schemas.topics import Topics
from turnstream.streams.replay.event_lines import Wanted, parse_since, parse_types

NOW = datetime(2026, 12, 1, 12, 0, tzinfo=UTC)
CODEC = Codec()


def event(thread: str, turn: str, n: int, text: str, tenant: str = "default") -> ev.TokensEmitted:
    return ev.TokensEmitted(
        event_id=event_id(turn, 1, n),
        tenant=tenant,
        thread_id=thread,
        turn_id=turn,
        epoch=1,
        n=n,
        message_id="m",
        block=0,
        kind="text",
        text=text,
    )


def raw(record: ev.Event, offset: int = 7) -> RawRecord:
    key = f"{record.tenant}/{record.thread_id}".encode()
    return RawRecord(2, offset, 1_800_000_000_123, key, CODEC.encode(record))


def test_a_line_has_the_place_and_every_field():
    record = event("t", "u", 3, "안녕\x1b[2J")
    line = json.loads(Wanted().line(raw(record), CODEC, as_json=True))
    assert (line["partition"], line["offset"], line["at_ms"]) == (2, 7, 1_800_000_000_123)
    assert (line["type"], line["thread_id"], line["n"]) == ("TokensEmitted", "t", 3)
    assert line["text"] == "안녕\x1b[2J"
    shown = Wanted().line(raw(record), CODEC, as_json=False)
    assert "default/t TokensEmitted" in shown
    assert "text=안녕\ufffd[2J" in shown, "nothing in it moves a terminal's cursor"


@pytest.mark.parametrize(
    ("wanted", "shown"),
    [
        (Wanted(), True),
        (Wanted(key="default/t"), True),
        (Wanted(key="default/"), True),
        (Wanted(key="default/tt"), False),
        (Wanted(key="default"), False),
        (Wanted(key="acme/"), False),
        (Wanted(turn_id="u-1"), True),
        (Wanted(turn_id="u-2"), False),
        (Wanted(turn_id="other"), False),  # it stands in the text only
        (Wanted(types=frozenset({"TokensEmitted"})), True),
        (Wanted(types=frozenset({"ToolStarted"})), False),
    ],
)
def test_what_is_wanted(wanted: Wanted, shown: bool):
    assert bool(wanted.line(raw(event("t", "u-1", 1, "other")), CODEC, as_json=True)) is shown


def test_a_record_that_cannot_be_read_is_a_line_of_its_own():
    broken = RawRecord(0, 1, 0, b"default/t", b"\xff\x00")
    line = json.loads(Wanted().line(broken, CODEC, as_json=True))
    assert (line["type"], line["key"], line["bytes"]) == ("", "default/t", 2)
    assert Wanted(types=frozenset({"ToolStarted"})).line(broken, CODEC, as_json=True) == ""
    assert Wanted(key="default/t").line(broken, CODEC, as_json=False)


def test_times_and_types():
    assert parse_since("10m", NOW) == NOW - timedelta(minutes=10)
    assert parse_since("2d", NOW) == NOW - timedelta(days=2)
    assert parse_since("start", NOW).timestamp() == 0
    assert parse_since("999999d", NOW).timestamp() >= 0
    assert parse_since("2026-12-01T05:00", NOW) == datetime(2026, 12, 1, 5, tzinfo=UTC)
    assert parse_since("2026-12-01T05:00+02:00", NOW) == datetime(2026, 12, 1, 3, tzinfo=UTC)
    for wrong in ("", "10", "10x", "yesterday", "-5m", "9" * 40 + "d"):
        with pytest.raises(InvalidRequestError, match="is no time"):
            parse_since(wrong, NOW)
    assert parse_types("tokensemitted, ToolStarted") == {"TokensEmitted", "ToolStarted"}
    for wrong in ("Tokens", ",", "TokensEmitted,x"):
        with pytest.raises(InvalidRequestError, match="TokensEmitted"):
            parse_types(wrong)


def tailing(kafka: str, prefix: str, *arguments: str, command: str = "") -> subprocess.Popen[str]:
    given = {"TURNSTREAM_KAFKA_BOOTSTRAP": kafka, "TURNSTREAM_TOPIC_PREFIX": prefix}
    cli = [sys.executable, "-m", "turnstream.streams.cli", "tail", *arguments]
    return subprocess.Popen(
        ["bash", "-c", f'exec < /dev/null; "$@" {command}', "bash", *cli] if command else cli,
        env={**os.environ, **given},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


async def test_it_follows_a_real_log_and_ends_clean(kafka: str, prefix: str, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    topics = Topics(prefix)
    async with TopicAdmin(kafka) as admin:
        await admin.create(topics.all(("default",), 3))
    producer = AIOKafkaProducer(bootstrap_servers=kafka)
    await producer.start()

    async def say(record: ev.Event) -> None:
        key = f"{record.tenant}/{record.thread_id}".encode()
        await producer.send_and_wait(topics.events, CODEC.encode(record), key=key)

    turn = str(uuid.uuid4())
    try:
        for n in range(1, 401):
            await say(event("old", turn, n, f"word {n} " * 50))
        headed = tailing(kafka, prefix, "--since", "start", command="| head -n 1")
        following = tailing(kafka, prefix, "--since", "start", "--thread", "new")
        whole = tailing(kafka, prefix, "--since", "1h", "--no-follow", "--turn", turn)
        said, complaint = await asyncio.to_thread(whole.communicate, timeout=120)
        assert complaint == ""
        assert [json.loads(line)["n"] for line in said.splitlines()] == list(range(1, 401))
        said, complaint = await asyncio.to_thread(headed.communicate, timeout=120)
        assert (json.loads(said)["n"], complaint) == (1, "")
        await say(event("new", turn, 1, "live"))
        assert following.stdout is not None
        line = json.loads(await asyncio.to_thread(following.stdout.readline))
        assert (line["thread_id"], line["text"]) == ("new", "live")
        following.send_signal(signal.SIGINT)
        said, complaint = await asyncio.to_thread(following.communicate, timeout=120)
        assert (following.returncode, said, complaint) == (0, "", "")
    finally:
        signal.signal(signal.SIGINT, before)
        await producer.stop()
        for process in (headed, following, whole):
            process.kill()
            process.wait()
