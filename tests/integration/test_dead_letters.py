"""Dead letters: found, read, dropped, and requeued once whatever dies or acts twice."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import aiohttp
import jwt
import msgspec
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from pydantic import SecretStr

from turnstream.connectors.kafka.read.scan import RawRecord, Span
from turnstream.schemas.errors import (
    ConflictError,
    InvalidRequestError,
    KafkaUnavailableError,
    NotFoundError,
    RecordTooLargeError,
    TooManyRequestsError,
)
from turnstream.schemas.records.events import AttemptStarted, TurnCompleted
from turnstream.streams.app.edge import open_edge
from turnstream.streams.app.letters import open_dead_letters
from turnstream.streams.letters.looks import READERS_PER_TENANT_MAX
from turnstream.streams.letters.reading import letter_json
from turnstream.streams.letters.scan import Place, Wanted, parse_place
from turnstream.streams.worker.admission import LETTER_HEADER

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from turnstream.streams.letters.dead_letters import DeadLetters
    from turnstream.streams.letters.scan import Letter

SECRET = "0123456789abcdef0123456789abcdef"
CUT_JSON = b'{"thread_id": "t1", "te'
GOOD_JSON = b'{"thread_id": "t1", "text": "tokens=2"}'
NOTES_WAIT = """
CREATE OR REPLACE FUNCTION wait_to_note() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  PERFORM pg_advisory_xact_lock_shared(1);
  RETURN NEW;
END $$;
CREATE TRIGGER notes_wait BEFORE UPDATE ON letter_decisions FOR EACH ROW
  WHEN (OLD.sent_at IS NULL AND NEW.sent_at IS NOT NULL) EXECUTE FUNCTION wait_to_note();
"""
WAITING = """
SELECT count(*) FROM pg_stat_activity
 WHERE datname = current_database() AND wait_event = 'advisory'
"""


@pytest.fixture
async def letters(scene: Any) -> AsyncIterator[DeadLetters]:
    async with open_dead_letters(scene.settings) as opened:
        yield opened


async def refused(scene: Any, value: bytes, *, count: int = 1, **where: Any) -> None:
    """Send what cannot be taken and wait for its letter."""
    before = len(scene.letters)
    await scene.send(value, **where)
    await scene.until(lambda: len(scene.letters) >= before + count)


async def only(letters: DeadLetters, **wanted: Any) -> Letter:
    (letter,) = (await letters.page(Wanted(**wanted))).letters
    return letter


async def inputs(scene: Any, topic: str) -> list[Any]:
    """Everything that lies on an input topic."""
    consumer = AIOKafkaConsumer(bootstrap_servers=scene.settings.kafka_bootstrap)
    await consumer.start()
    try:
        targets = [TopicPartition(topic, p) for p in range(4)]
        consumer.assign(targets)
        await consumer.seek_to_beginning()
        ends = await consumer.end_offsets(targets)
        found: list[Any] = []
        while sum(ends.values()) > len(found):
            for records in (await consumer.getmany(timeout_ms=100)).values():
                found += records
        return found
    finally:
        await consumer.stop()


def starts_of(scene: Any, thread: str) -> list[AttemptStarted]:
    found = [r for _, _, r in scene.log if isinstance(r, AttemptStarted)]
    return [r for r in found if r.thread_id == thread]


async def test_an_edited_letter_becomes_a_turn_and_keeps_its_history(
    scene: Any, letters: DeadLetters
) -> None:
    async with scene.worker():
        await refused(scene, CUT_JSON)
        letter = await only(letters, state="open")
        reading = letters.read(letter.record)
        assert (reading.form, reading.code) == ("JSON", "not_json")
        with pytest.raises(InvalidRequestError, match="not_json") as again:
            await letters.requeue(letter, actor="kim")
        assert again.value.code == "letter_refused"
        with pytest.raises(RecordTooLargeError):
            await letters.requeue(letter, actor="kim", value=b"x" * (1 << 20))

        # in vain: it is refused again, as the same letter
        await letters.requeue(letter, actor="kim", force=True, note="who knows")
        await scene.until(lambda: len(scene.letters) == 2)
        second = await only(letters, state="open")
        assert second.place != letter.place
        assert second.record.requeues == 1
        assert second.record.letter_id == letter.record.letter_id

        done = await letters.requeue(second, actor="lee", value=GOOD_JSON)
        done = await letters.sent(done, timeout_s=60)
        assert done.state == "requeued"
        await scene.until(lambda: starts_of(scene, "t1"))
        turn = starts_of(scene, "t1")[0].turn_id
        assert isinstance((await scene.done("t1", turn)).terminal, TurnCompleted)
        # without an id of its own it has the one that the refused record would have had
        assert turn == letter.record.letter_id
        history = await letters.history(await letters.get(letter.place))
        assert [(d.actor, d.code, d.edited, d.note) for d in history] == [
            ("kim", "not_json", False, "who knows"),
            ("lee", "not_json", True, ""),
        ]
        row = await scene.closed(turn)
        assert (row["src_part"], row["src_off"]) == (history[1].sent_part, history[1].sent_off)
        # its backend heard of the letter, twice, and then of the turn, all under one turn id
        await scene.until(lambda: len(scene.results) >= 3)
        told = sorted((r.code, r.status, r.turn_id, r.letter_id) for r in scene.results)
        refusal = ("dead_letter", "rejected", turn, turn)
        assert told == [("", "completed", turn, ""), refusal, refusal]
        assert not (await letters.page(Wanted(state="open"))).letters


HOPELESS = [
    b'{"thread_id": "t1", "text": "x", "expires_at": 18446744073709551615}',
    b'{"thread_id": "t1", "text": "x", "at": -1}',
    b'{"thread_id": "t1", "text": "x", "priority": 1e30}',
    b'{"thread_id": "t1", "input": [1' + b"0" * 30 + b"]}",
    b'{"thread_id": "t1", "input": ' + b"[" * 600 + b"]" * 600 + b"}",
    b"[" * 100_000,
]


async def test_an_edit_that_no_worker_ever_takes_is_not_sent_by_force_either(
    scene: Any, letters: DeadLetters
) -> None:
    async with scene.worker():
        await refused(scene, CUT_JSON)
        letter = await only(letters, state="open")
        for value in HOPELESS:
            for force in (False, True):
                with pytest.raises(InvalidRequestError) as error:
                    await letters.requeue(letter, actor="kim", value=value, force=force)
                assert (error.value.code, error.value.status) == ("letter_refused", 422)
        with pytest.raises(InvalidRequestError) as error:
            await letters.drop(letter, actor="k\x00")
        assert error.value.code == "invalid_actor"
        assert (await letters.get(letter.place)).state == "open"
        await letters.requeue(letter, actor="kim", value=GOOD_JSON)
        await scene.until(lambda: starts_of(scene, "t1"))


async def test_of_many_who_decide_at_once_one_has_decided(scene: Any, letters: DeadLetters) -> None:
    async with scene.worker(), open_dead_letters(scene.settings) as others:
        await refused(scene, CUT_JSON)
        letter = await only(letters)
        calls = [
            each.requeue(letter, actor=f"{name}-{i}", value=GOOD_JSON)
            for name, each in (("a", letters), ("b", others))
            for i in range(4)
        ] + [others.drop(letter, actor="c")]
        came = await asyncio.gather(*calls, return_exceptions=True)
        conflicts = [one for one in came if isinstance(one, ConflictError)]
        assert len(conflicts) == len(came) - 1
        assert {error.code for error in conflicts} == {"letter_decided"}
        (decided,) = [one for one in came if not isinstance(one, BaseException)]
        if decided.state != "dropped":
            await scene.until(lambda: starts_of(scene, "t1"))
        letter = await letters.sent(await letters.get(letter.place), timeout_s=60)
        assert letter.decision.actor == decided.decision.actor
        with pytest.raises(ConflictError):
            await letters.requeue(letter, actor="late", value=GOOD_JSON)
        sent = await inputs(scene, scene.topics.turns_of("default"))
        assert len(sent) == 1 + (decided.state != "dropped")


async def test_a_worker_killed_between_sending_and_noting_makes_no_second_turn(
    scene: Any, letters: DeadLetters
) -> None:
    first = scene.process("first")
    await first.ready()
    await refused(scene, CUT_JSON)
    letter = await only(letters)
    await scene.db.execute(NOTES_WAIT)
    await scene.db.execute("SELECT pg_advisory_lock(1)")
    await letters.requeue(letter, actor="kim", value=GOOD_JSON)
    async with asyncio.timeout(60):
        while not await scene.db.fetchval(WAITING):
            await asyncio.sleep(0.02)
    first.kill()
    await scene.db.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND wait_event = 'advisory'"
    )
    await scene.db.execute("DROP TRIGGER notes_wait ON letter_decisions")
    await scene.db.execute("SELECT pg_advisory_unlock(1)")
    assert (await letters.get(letter.place)).state == "requeue_due"
    await scene.db.execute("UPDATE letter_decisions SET due = clock_timestamp()")  # its time comes
    async with scene.worker():
        assert (await letters.sent(letter, timeout_s=60)).state == "requeued"
        sent = await inputs(scene, scene.topics.turns_of("default"))
        assert [r.value for r in sent].count(GOOD_JSON) == 2, "it was sent again"
        assert {dict(r.headers)[LETTER_HEADER] for r in sent if r.headers} == {
            letter.record.letter_id.encode()
        }
        after = await scene.start("t1", "tokens=1")
        await scene.done("t1", after)
        await scene.closed(after)
    assert await scene.db.fetchval("SELECT count(*) FROM turns") == 2
    assert len(scene.letters) == 1
    assert len({r.turn_id for r in starts_of(scene, "t1")}) == 2


async def test_two_letters_of_one_record_are_decided_as_one(
    scene: Any, letters: DeadLetters
) -> None:
    """The intake died between the letter and its position."""
    async with scene.worker():
        await refused(scene, CUT_JSON, partition=0)
        async with asyncio.timeout(60):
            while not await scene.db.fetchval("SELECT max(next_off) FROM intake"):
                await asyncio.sleep(0.02)
        await scene.db.execute("UPDATE intake SET next_off = 0")
        await refused(scene, CUT_JSON, count=3, partition=0)
        page = await letters.page(Wanted())
        ids = Counter(letter.key for letter in page.letters)
        first = page.letters[0].key
        assert ids[first] == 2
        twin, other = [one for one in page.letters if one.key == first]
        await letters.requeue(twin, actor="kim", value=GOOD_JSON)
        with pytest.raises(ConflictError):
            await letters.drop(other, actor="lee")
        assert (await letters.sent(other, timeout_s=60)).state == "requeued"


async def test_what_was_admitted_after_all_is_not_run_again(
    scene: Any, letters: DeadLetters
) -> None:
    """A newer worker took the record that an older one refused before it moved on."""
    async with scene.worker(text_chars_max=3):
        await refused(scene, GOOD_JSON)
    await scene.db.execute("UPDATE intake SET next_off = 0")
    async with scene.worker():
        await scene.until(lambda: starts_of(scene, "t1"))
        turn = starts_of(scene, "t1")[0].turn_id
        await scene.closed(turn)
        letter = await only(letters)
        await letters.requeue(letter, actor="kim")
        assert (await letters.sent(letter, timeout_s=60)).state == "requeued"
        after = await scene.start("t1", "tokens=1")
        await scene.done("t1", after)
    assert {r.turn_id for r in starts_of(scene, "t1")} == {turn, after}


async def test_a_decision_that_a_restore_forgot_makes_no_second_turn(
    scene: Any, letters: DeadLetters
) -> None:
    async with scene.worker():
        await refused(scene, CUT_JSON)
        letter = await only(letters)
        for _ in range(2):
            await letters.requeue(letter, actor="kim", value=GOOD_JSON)
            assert (await letters.sent(letter, timeout_s=60)).state == "requeued"
            await scene.until(lambda: starts_of(scene, "t1"))
            await scene.db.execute("DELETE FROM letter_decisions")
            (letter,) = await letters.decided([letter])
            assert letter.state == "open"
        await letters.requeue(letter, actor="kim", value=GOOD_JSON.replace(b"2", b"3"))
        await scene.until(lambda: len(scene.letters) == 2)  # another edit: it comes back
        assert scene.letters[1].code == "turn_id_reused"
        assert scene.letters[1].letter_id == letter.record.letter_id
    assert len({r.turn_id for r in starts_of(scene, "t1")}) == 1


async def test_pages_follow_each_other_and_filters_hold(scene: Any, letters: DeadLetters) -> None:
    async with scene.worker():
        for i in range(7):
            await scene.send(b"x%d" % i, key=b"k%d" % i)
        await scene.send(CUT_JSON, topic=scene.topics.turns_of("acme"))
        await scene.send(b'{"thread_id": "a", "text": "x"}', topic=scene.topics.turns)
        await scene.until(lambda: len(scene.letters) == 9)
    told: list[tuple[int, int]] = []
    places: list[Place] = []
    start = None
    while True:
        page = await letters.page(
            Wanted(),
            start=start,
            limit=2,
            on_progress=lambda done, total: told.append((done, total)),
        )
        places += [letter.place for letter in page.letters]
        assert len(page.letters) <= 2
        start = page.following
        if start is None:
            break
    assert len(places) == 9
    assert places == sorted(places)
    assert told
    assert len((await letters.page(Wanted(tenant="acme"))).letters) == 1
    assert len((await letters.page(Wanted(tenant=""))).letters) == 1
    assert len((await letters.page(Wanted(code="not_avro"))).letters) == 7
    one = places[0]
    ranged = Wanted(partition=one.partition, first=one.offset, end=one.offset + 1)
    assert [x.place for x in (await letters.page(ranged)).letters] == [one]
    await letters.drop(await letters.get(one), actor="kim", note="noise")
    assert len((await letters.page(Wanted(state="open"))).letters) == 8
    assert [x.place for x in (await letters.page(Wanted(state="dropped"))).letters] == [one]
    with pytest.raises(NotFoundError):
        await letters.get(Place(0, 4711))
    for wrong in ("", "1", "1-", "a-b", "1-2-3", "-1-2"):
        with pytest.raises(InvalidRequestError):
            parse_place(wrong)


class SlowLog:
    """A topic whose first `quick` records come at once, each other after a pause."""

    def __init__(self, values: list[bytes], pause_s: float, quick: int = 0) -> None:
        self.values, self.pause_s, self.quick = values, pause_s, quick
        self.opened = 0

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[SlowLog]:
        self.opened += 1
        yield self

    async def spans(self, topic: str) -> list[Span]:
        return [Span(0, 0, len(self.values))]

    async def record(self, topic: str, partition: int, offset: int) -> RawRecord:
        await asyncio.sleep(self.pause_s)
        return RawRecord(partition, offset, 0, b"", self.values[offset])

    async def read(self, topic: str, spans: list[Span]) -> AsyncIterator[list[RawRecord]]:
        for span in spans:
            for offset in range(span.first, span.end):
                await asyncio.sleep(0.0 if offset < self.quick else self.pause_s)
                yield [RawRecord(0, offset, 0, b"", self.values[offset])]


async def test_a_scan_that_takes_too_long_says_where_to_go_on(scene: Any) -> None:
    async with scene.worker():
        for i in range(4):
            await scene.send(b"x%d" % i)
        await scene.until(lambda: len(scene.letters) == 4)
    values = [scene.codec.encode(letter) for letter in scene.letters]
    async with open_dead_letters(scene.settings) as letters:
        letters._looks._open_log = SlowLog(values, 600.0, quick=2).open
        page = await letters.page(Wanted(), budget_s=1.0)
        assert page.cut
        assert len(page.letters) == 2
        letters._looks._open_log = SlowLog(values, 0.0).open
        rest = await letters.page(Wanted(), start=page.following)
        assert not rest.cut
        assert len(page.letters) + len(rest.letters) == 4
        letters._looks._open_log = SlowLog(values, 600.0).open
        began = time.monotonic()
        nothing = await letters.page(Wanted(), budget_s=0.3)
        assert (nothing.cut, nothing.letters, nothing.following) == (True, [], Place(0, 0))
        with pytest.raises(KafkaUnavailableError):
            await letters.get(Place(0, 0), budget_s=0.3)
        assert time.monotonic() - began < 60


def token(user: str, tenant: str, *roles: str) -> dict[str, str]:
    claims = {"sub": user, "tenant": tenant, "roles": list(roles), "exp": time.time() + 600}
    return {"Authorization": f"Bearer {jwt.encode(claims, SECRET, algorithm='HS256')}"}


async def test_one_tenants_looks_leave_room_for_anothers(scene: Any, letters: DeadLetters) -> None:
    values = [b"no letter"] * 3
    held = SlowLog(values, 600.0)
    letters._looks._open_log = held.open
    looks = [
        asyncio.create_task(letters.page(Wanted(), caller=f"t{n % 3}"))
        for n in range(3 * READERS_PER_TENANT_MAX)
    ]
    try:
        await scene.until(lambda: held.opened == len(looks))
        with pytest.raises(TooManyRequestsError) as error:
            await letters.page(Wanted(), caller="t0")
        assert (error.value.code, error.value.status) == ("letters_busy", 429)
        letters._looks._open_log = SlowLog(values, 0.0).open
        assert (await letters.page(Wanted(), caller="calm")).unreadable == len(values)
    finally:
        for look in looks:
            look.cancel()
        await asyncio.gather(*looks, return_exceptions=True)
    assert (await letters.page(Wanted(), caller="t0")).unreadable == len(values)


async def test_the_api_shows_a_tenant_its_own_and_an_operator_all(scene: Any) -> None:
    settings = scene.settings.model_copy(
        update={"edge_port": 0, "edge_fetch_wait_ms": 50, "jwt_secret": SecretStr(SECRET)}
    )
    async with scene.worker(), open_edge(settings) as edge, aiohttp.ClientSession() as http:
        running = asyncio.create_task(edge.run())
        url = f"http://127.0.0.1:{edge.port}/dead-letters"

        async def call(method: str, path: str, who: dict[str, str], **body: Any) -> tuple[int, Any]:
            async with http.request(method, url + path, headers=who, json=body or None) as answer:
                return answer.status, await answer.json()

        try:
            await refused(scene, CUT_JSON)
            await refused(scene, b"acme's", topic=scene.topics.turns_of("acme"))
            await refused(scene, b"whose?", topic=scene.topics.turns)
            default, acme = token("kim", "default"), token("lee", "acme")
            operator = token("root", "elsewhere", "operator")
            assert (await call("GET", "", {}))[0] == 401
            found = {}
            for who, name in ((default, "default"), (acme, "acme"), (operator, "operator")):
                status, page = await call("GET", "", who)
                assert status == 200, page
                found[name] = page["letters"]
            assert [x["tenant"] for x in found["default"]] == ["default"]
            assert [x["tenant"] for x in found["acme"]] == ["acme"]
            assert sorted(x["tenant"] for x in found["operator"]) == ["", "acme", "default"]
            assert (await call("GET", "?tenant=default", acme))[1]["letters"] == found["acme"]

            mine, theirs = f"/{found['default'][0]['letter']}", f"/{found['acme'][0]['letter']}"
            for method, path in (("GET", ""), ("POST", "/requeue"), ("POST", "/drop")):
                status, problem = await call(method, theirs + path, default)
                assert (status, problem["code"]) == (404, "letter_not_found")
            status, shown = await call("GET", mine, default)
            assert status == 200
            assert shown["value"] == CUT_JSON.decode()
            assert shown["reading"]["code"] == "not_json"
            assert (await call("POST", mine + "/requeue", default))[1]["code"] == "letter_refused"
            edit = {"value": GOOD_JSON.decode()}
            status, problem = await call("POST", mine + "/requeue", default, **edit)
            assert (status, problem["code"]) == (403, "forbidden"), "it may name another actor"
            editor = token("kim", "default", "tenant-operator")
            assert (await call("POST", theirs + "/requeue", editor, **edit))[0] == 404
            status, done = await call("POST", mine + "/requeue", editor, **edit)
            assert (status, done["decision"]["actor"]) == (202, "kim")
            status, problem = await call("POST", mine + "/drop", operator)
            assert (status, problem["code"]) == (409, "letter_decided")
            await scene.until(lambda: starts_of(scene, "t1"))
            status, dropped = await call("POST", theirs + "/drop", operator, note="noise")
            assert (status, dropped["state"]) == (200, "dropped")
            assert (await call("GET", "?state=all", acme))[1]["letters"][0]["state"] == "dropped"
            assert (await call("GET", "/nonsense", default))[1]["code"] == "invalid_letter"
            assert (await call("GET", "?limit=0", default))[0] == 422
        finally:
            edge.stop()
            await asyncio.wait_for(running, 60)


async def test_the_command_line(scene: Any, letters: DeadLetters, tmp_path: Any) -> None:
    settings = scene.settings
    env = {
        **{key: value for key, value in os.environ.items() if not key.startswith("TURNSTREAM_")},
        "TURNSTREAM_KAFKA_BOOTSTRAP": settings.kafka_bootstrap,
        "TURNSTREAM_TOPIC_PREFIX": settings.topic_prefix,
        "TURNSTREAM_DATABASE_URL": settings.database_url.get_secret_value(),
        "TURNSTREAM_TENANTS": json.dumps(settings.tenants),
        "TURNSTREAM_PARTITIONS": "4",
    }

    async def run(*words: str) -> subprocess.CompletedProcess[str]:
        return await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-m", "turnstream.streams.cli", "dead-letters", *words],
            env=env,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
            cwd=tmp_path,
        )

    async with scene.worker():
        await refused(scene, CUT_JSON)
        await refused(scene, b"noise", key=b"n")
        in_json, table = await asyncio.gather(run("list", "--json"), run("list"))
        listed = json.loads(in_json.stdout)
        by_code = {row["code"]: row["letter"] for row in listed["letters"]}
        assert set(by_code) == {"not_json", "not_avro"}
        cut, noise = by_code["not_json"], by_code["not_avro"]
        assert cut in table.stdout
        raw, in_json, said, vain = await asyncio.gather(
            run("show", cut, "--raw"),
            run("show", noise, "--json"),
            run("show", noise),
            run("requeue", cut),
        )
        assert raw.stdout.encode() == CUT_JSON
        shown = json.loads(in_json.stdout)
        assert (shown["value"], shown["reading"]["form"], shown["key"]) == ("noise", "text", "n")
        assert "refused  not_avro" in said.stdout
        assert (vain.returncode, "letter_refused" in vain.stderr) == (1, True)
        edited = tmp_path / "edited"
        edited.write_bytes(GOOD_JSON)
        done, dropped = await asyncio.gather(
            run("requeue", cut, "--value", str(edited), "--note", "cut", "--json"),
            run("drop", noise),
        )
        assert done.returncode == 0, done.stderr
        (row,) = json.loads(done.stdout)
        assert (row["state"], row["decision"]["note"]) == ("requeued", "cut")
        await scene.until(lambda: starts_of(scene, "t1"))
        assert dropped.stdout.split() == [noise, "dropped"]
        twice, left = await asyncio.gather(run("drop", noise), run("list", "--json"))
        assert (twice.returncode, "letter_decided" in twice.stderr) == (1, True)
        assert json.loads(left.stdout)["letters"] == []
    await refused_and_nobody_sends(scene, run, letters)


async def refused_and_nobody_sends(scene: Any, run: Any, letters: DeadLetters) -> None:
    """Without a worker the decision stands, and the command says that it waits."""
    async with scene.worker():
        await refused(scene, CUT_JSON)
    letter = await only(letters, state="open")
    waits = await run("requeue", str(letter.place), "--force", "--wait", "0.3")
    assert (waits.returncode, "a worker" in waits.stderr) == (3, True)
    assert (await letters.get(letter.place)).state == "requeue_due"


FOREIGN = {
    "an id that is none": {"letter_id": "x"},
    "a time beyond any calendar": {"at": 2**62},
    "a time before any": {"at": -(2**62)},
    "requeues beyond Postgres": {"requeues": 2**40},
    "a partition beyond Kafka": {"partition": 2**40},
    "an offset that is none": {"offset": -1},
    "a topic with NUL": {"topic": "turns\x00default"},
    "a message with NUL": {"message": "\x00"},
}


async def test_letters_that_no_worker_wrote_hide_no_other(scene: Any, letters: DeadLetters) -> None:
    """A program that may write to the topic may write letters, snappy and damaged records."""
    async with scene.worker():
        await refused(scene, CUT_JSON)
    ours = scene.letters[0]
    topic, sent = scene.topics.dead_letters, [b"no letter", b""]
    sent += [scene.codec.encode(msgspec.structs.replace(ours, **odd)) for odd in FOREIGN.values()]
    async with AIOKafkaProducer(
        bootstrap_servers=scene.settings.kafka_bootstrap, compression_type="snappy"
    ) as producer:
        for value in sent:
            await producer.send_and_wait(topic, value, headers=[("code", None)])
    page = await letters.page(Wanted())
    assert [letter.record for letter in page.letters] == [ours]
    assert page.unreadable == len(sent)
    assert letter_json(page.letters[0])["code"] == "not_json"
    for letter in page.letters:
        await letters.drop(letter, actor="kim")
