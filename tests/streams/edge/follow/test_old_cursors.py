"""Cursors that are old by log size, by restarts and by retention, on each surface that has them.

What a client reads with one cursor after the other is every token once, or it is told `reset`.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace

import httpx
import pytest
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from websockets.asyncio.client import connect

from turnstream.schemas.records import events as ev
from turnstream.streams.edge.routes.deps import Rest
from turnstream.streams.edge.server.auth import Principal
from turnstream.streams.edge.surfaces.run_projection import RunProjection

SURFACES = ["websocket", "since", "last-event-id", "join-stream"]
CHANNELS = ["lifecycle", "messages", "input"]
WORDS = [f"w{number} " for number in range(20)]
SEEN = 7
"""How many words the client has when it goes: in the middle of the first message."""


@dataclass
class Heard:
    """What one connection heard: words by message, its last cursor, whether it was told `reset`."""

    texts: dict[str, str] = field(default_factory=dict)
    cursor: int | None = None
    resets: int = 0
    ended: bool = False

    @property
    def text(self) -> str:
        return "".join(self.texts.values())

    def protocol(self, item) -> None:
        """Take in an event of the thread's stream."""
        if "seq" not in item:
            return
        self.cursor = item["seq"]
        self.resets += item["event_id"].startswith("reset-")
        data = item["params"]["data"]
        if data.get("event") == "content-block-delta":
            self.texts[data["id"]] = self.texts.get(data["id"], "") + data["delta"]["text"]
        self.ended = item["method"] == "lifecycle" and data["event"] == "completed"

    def run(self, event: str, data, cursor: int | None) -> None:
        """Take in an event of a run's stream."""
        self.cursor = self.cursor if cursor is None else cursor
        self.resets += event == "reset"
        self.ended = event == "end"
        if event == "messages" and data[0]["type"] == "AIMessageChunk":
            name = data[0]["id"]
            self.texts[name] = self.texts.get(name, "") + data[0]["content"]


async def listen(heard, surface, url, run_id, cursor, until) -> None:
    """Hear a surface from a cursor on, until a condition holds."""
    async with asyncio.timeout(60), _opened(surface, url, run_id, cursor) as items:
        async for item in items:
            if surface == "join-stream":
                heard.run(*item)
            else:
                heard.protocol(item)
            if until(heard):
                return
    raise AssertionError(heard)


@asynccontextmanager
async def _opened(surface, url, run_id, cursor):
    if surface == "websocket":
        address = f"{url.replace('http', 'ws', 1)}/threads/a/stream/events"
        async with connect(address) as socket:
            params = {"channels": CHANNELS} | ({} if cursor is None else {"since": cursor})
            frame = {"id": 1, "method": "subscription.subscribe", "params": params}
            await socket.send(json.dumps(frame))

            async def frames():
                async for text in socket:
                    yield json.loads(text)

            yield frames()
        return
    headers = {} if cursor is None else {"Last-Event-ID": str(cursor)}
    async with httpx.AsyncClient(base_url=url, timeout=60) as client:
        if surface == "join-stream":
            call = client.stream(
                "GET",
                f"/threads/a/runs/{run_id}/stream",
                params={"stream_mode": "messages-tuple"},
                headers=headers,
            )
        else:
            body = {"channels": CHANNELS}
            if surface == "since" and cursor is not None:
                body, headers = body | {"since": cursor}, {}
            call = client.stream("POST", "/threads/a/stream/events", json=body, headers=headers)
        async with call as response:
            response.raise_for_status()
            yield _server_sent(response, named=surface == "join-stream")


async def _server_sent(response, *, named):
    about = {}
    async for line in response.aiter_lines():
        name, _, value = line.partition(": ")
        if line:
            about[name] = value
        elif "data" in about:
            data, at = json.loads(about["data"]), about.get("id")
            yield (about["event"], data, None if at is None else int(at)) if named else data
            about = {}


@pytest.fixture
def story(worker):
    """A turn that stops in its second message, and goes on when it is told."""
    go_on = asyncio.Event()

    async def tell(turn):
        await turn.start()
        for name, part in (("m1", WORDS[:10]), ("m2", WORDS[10:])):
            await turn.say(ev.MessageStarted, message_id=name, path="t1")
            for word in part:
                if word == WORDS[15]:
                    await go_on.wait()
                await turn.tokens(word.strip(), name)
            await turn.say(ev.MessageFinished, message_id=name, path="t1")
        await turn.message("fresh words", "m3")
        await turn.end()

    worker.script = tell
    return go_on


@pytest.fixture
def settings(settings):
    """What waits for a turn's start waits long enough on a slow machine; the ring begins empty."""
    return settings.model_copy(update={"edge_start_wait_s": 30.0, "edge_warm_s": 0.0})


async def begin(edge):
    async with httpx.AsyncClient(base_url=edge.url, timeout=60) as client:
        command = {"id": 1, "method": "run.start", "params": {"assistant_id": "agent", "input": {}}}
        answer = (await client.post("/threads/a/commands", json=command)).json()
        return answer["result"]["run_id"], answer["meta"]["applied_through_seq"]


async def noise(worker, count):
    """Append records of another thread to the thread's partition."""
    record = ev.CustomEmitted(
        event_id="x", tenant="default", thread_id="noise", turn_id="x", epoch=1, n=1,
        name="n", payload='"' + "x" * 2000 + '"',
    )  # fmt: skip

    class Other:
        thread_key = "default/noise"
        partition = worker.turns[-1].claim.partition

    return [await worker.append(Other, record) for _ in range(count)][-1]


async def deleted(kafka, worker, before):
    """Let retention take what lies before an offset."""
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka)
    await admin.start()
    place = TopicPartition(worker.settings.topics.events, worker.turns[-1].claim.partition)
    await admin.delete_records({place: RecordsToDelete(before_offset=before)})
    await admin.close()


def heard_words(heard):
    return len(heard.text.split()) >= SEEN


@pytest.mark.parametrize("surface", SURFACES)
async def test_old_by_log_size(settings, open_running, worker, story, surface):
    """The ring has gone past the cursor: the log is read."""
    small = settings.model_copy(update={"ring_bytes_max": 1 << 20})
    before, after = Heard(), Heard()
    async with open_running(small) as edge:
        run_id, since = await begin(edge)
        await listen(before, surface, edge.url, run_id, since, heard_words)
        last = await noise(worker, 1500)
        tail, partition = edge.edge.tail, worker.turns[0].claim.partition
        async with asyncio.timeout(60):
            while tail.end(partition) <= last:
                await asyncio.sleep(0.01)
            while tail.held(partition, b"default/a", worker.turns[0].first_off) is not None:
                await asyncio.sleep(0.01)
        story.set()
        await listen(after, surface, edge.url, run_id, before.cursor, lambda it: it.ended)
    assert before.text + after.text == "".join(WORDS) + "fresh words "
    assert after.resets == 0


@pytest.mark.parametrize("surface", SURFACES)
async def test_old_by_restarts(settings, open_running, worker, story, surface):
    """Each edge reads some words and goes; the next has an empty ring."""
    text, run_id, cursor = "", "", None
    for words in (3, 7, 12, None):
        async with open_running(settings) as edge:
            if not run_id:
                run_id, cursor = await begin(edge)
            if words is None:
                story.set()
            heard, had = Heard(), len(text.split())

            def enough(it, words=words, had=had):
                return it.ended if words is None else had + len(it.text.split()) >= words

            await listen(heard, surface, edge.url, run_id, cursor, enough)
            assert heard.resets == 0
            text, cursor = text + heard.text, heard.cursor
    assert text == "".join(WORDS) + "fresh words "


async def test_an_edge_that_is_slow_to_catch_up_does_not_take_a_run_for_lost(edge, worker, story):
    """Else it would show how the run ended in place of what was said."""
    run_id, _ = await begin(edge)
    story.set()
    await worker.idle()
    context, tail = edge.edge.context, edge.edge.tail
    joining = replace(Rest(context, Principal("default", "dev")).joining, quiet_s=0.05)
    heard, projection = [], RunProjection(run_id, frozenset({"messages-tuple"}))

    async def listen_in():
        heard.extend([chunk async for chunk in joining.stream("default/a", projection)])

    tail.ready.clear()
    listening = asyncio.create_task(listen_in())
    await asyncio.wait((listening,), timeout=20 * joining.quiet_s)
    assert not listening.done()
    tail.ready.set()
    async with asyncio.timeout(60):
        await listening
    assert all(word.strip().encode() in b"".join(heard) for word in WORDS)


@pytest.mark.parametrize("surface", SURFACES)
async def test_old_by_retention_within_the_turn(
    kafka, settings, open_running, worker, story, surface
):
    """The log has lost the turn's beginning: `reset`, and only messages that are whole."""
    before, after = Heard(), Heard()
    async with open_running(settings) as edge:
        run_id, since = await begin(edge)
        await listen(before, surface, edge.url, run_id, since, heard_words)
        async with asyncio.timeout(60):
            while worker.turns[0].n < 18:  # it stands in its second message
                await asyncio.sleep(0.01)
        await deleted(kafka, worker, worker.turns[0].last_off - 1)
    async with open_running(settings) as edge:
        heard = asyncio.create_task(
            listen(after, surface, edge.url, run_id, before.cursor, lambda it: it.ended)
        )
        async with asyncio.timeout(60):
            while not (after.resets or heard.done() or edge.edge.context.feed.resets):
                await asyncio.sleep(0.01)
        story.set()
        await heard
    assert edge.edge.context.feed.resets == 1
    assert after.texts == {"m3": "fresh words "}
    if surface == "join-stream":
        assert after.resets == 1


@pytest.mark.parametrize("surface", SURFACES)
async def test_old_by_retention_before_the_turn(
    kafka, settings, open_running, worker, story, surface
):
    """The cursor's turn is gone, the one that runs is not: `reset`, and all of that one."""
    gone, after = Heard(), Heard()
    story.set()
    async with open_running(settings) as edge:
        run_id, since = await begin(edge)
        await listen(gone, surface, edge.url, run_id, since, heard_words)
        await worker.idle()
        story.clear()
        current, _ = await begin(edge)
        async with asyncio.timeout(60):
            while worker.turns[1].n < 10:
                await asyncio.sleep(0.01)
        await deleted(kafka, worker, worker.turns[1].first_off)
    async with open_running(settings) as edge:
        resets = edge.edge.context.feed
        if surface == "join-stream":  # of the run that is gone there is nothing but its end
            await listen(after, surface, edge.url, run_id, gone.cursor, lambda it: it.ended)
            assert after.texts == {}
            assert after.resets == 1
            return
        listening = asyncio.create_task(
            listen(after, surface, edge.url, current, gone.cursor, lambda it: it.ended)
        )
        async with asyncio.timeout(60):
            while not after.text:
                await asyncio.sleep(0.01)
        story.set()
        await listening
        assert after.text == "".join(WORDS) + "fresh words "
        assert resets.resets == 1


@pytest.mark.parametrize("cursor", ["other incarnation", "past the end"])
async def test_a_run_is_joined_anew_with_a_cursor_that_is_void(edge, worker, story, cursor):
    story.set()
    run_id, since = await begin(edge)
    void = since + (1 << 46) if cursor == "other incarnation" else since + (1 << 30)
    heard = Heard()
    with suppress(TimeoutError):
        await listen(heard, "join-stream", edge.url, run_id, void, lambda it: it.ended)
    assert heard.resets == 1
    assert heard.text == "".join(WORDS) + "fresh words "
