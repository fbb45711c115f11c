"""The emitter: what is joined, what gets which `n`, what is refused; its pump is a list."""

from __future__ import annotations

import asyncio
from collections import defaultdict

import pytest
from aiokafka import TopicPartition
from hypothesis import given, settings
from hypothesis import strategies as st

from turnstream.connectors.avro import Codec
from turnstream.schemas.errors import (
    FencedError,
    OutputOverrunError,
    ProduceRefusedError,
    RecordTooLargeError,
)
from turnstream.schemas.fold.fold import ThreadFold
from turnstream.schemas.fold.transcript import transcript
from turnstream.schemas.records.events import (
    AttemptStarted,
    CustomEmitted,
    InputResolved,
    MessageFinished,
    MessageStarted,
    StepStarted,
    TokensEmitted,
    TurnCompleted,
    TurnFailed,
)
from turnstream.streams.worker.emitter import TurnEmitter
from turnstream.streams.worker.turn_records import TurnRecords

CODEC = Codec()
TO = TopicPartition("turn-events", 0)


class Rounds:
    """A pump whose rounds the test calls; implements what the emitter asks of a pump."""

    def __init__(self) -> None:
        self.queue: list = []
        self.open: dict = {}
        self.log: list = []
        self.urgent = 0
        self.hurried = 0

    def put(self, to, sender, n, key, value, *, headers=(), urgent=False) -> None:
        self.queue.append((sender, n, key, value, headers))
        self.urgent += urgent

    def mark(self, to, sender, *, urgent=False) -> None:
        self.open[sender] = None
        self.urgent += urgent

    def hurry(self) -> None:
        self.hurried += 1

    def round(self, *, ack: bool = True) -> int:
        senders, self.open = self.open, {}
        for sender in senders:
            if not sender.dead:
                sender.seal()
        taken, self.queue = self.queue, []
        for sender, n, _key, value, _headers in taken:
            if sender.dead:
                continue
            self.log.append(CODEC.decode(value))
            if ack:
                sender.landed(n, len(self.log) - 1)
        return len(taken)


def emitter(pump: Rounds, **given) -> TurnEmitter:
    records = TurnRecords(
        CODEC, tenant="acme", thread_id="t", turn_id="turn", epoch=7, now_us=lambda: 1
    )
    made = TurnEmitter(pump, TO, records, **given)
    made.start(reason="first", base=0, keep_n=0, high_n=given.get("high_n", 0))
    return made


def say(
    voice: TurnEmitter,
    text: str,
    message: str = "m",
    block: int = 0,
    kind: str = "text",
    path: str = "p",
) -> None:
    voice.tokens(path=path, message_id=message, block=block, kind=kind, text=text)


async def test_tokens_that_meet_in_a_round_become_one_record() -> None:
    pump = Rounds()
    voice = emitter(pump)
    voice.emit(MessageStarted, path="p", message_id="m")
    for word in ("a", "b", "c"):
        say(voice, word)
    pump.round()
    say(voice, "d")
    pump.round()
    texts = [r.text for r in pump.log if isinstance(r, TokensEmitted)]
    assert texts == ["abc", "d"]
    assert [r.n for r in pump.log] == [0, 1, 2, 3]


async def test_the_first_token_is_urgent_and_the_others_are_not() -> None:
    pump = Rounds()
    voice = emitter(pump)
    assert pump.urgent == 1  # the fence
    say(voice, "a")
    assert pump.urgent == 2
    pump.round()
    say(voice, "b")
    assert pump.urgent == 2


async def test_another_event_seals_what_is_open() -> None:
    pump = Rounds()
    voice = emitter(pump)
    say(voice, "a")
    say(voice, "b", message="other")
    voice.emit(MessageFinished, path="p", message_id="m")
    say(voice, "late", message="other")
    pump.round()
    kinds = [(type(r).__name__, getattr(r, "text", "")) for r in pump.log[1:]]
    assert kinds == [
        ("TokensEmitted", "a"),
        ("TokensEmitted", "b"),
        ("MessageFinished", ""),
        ("TokensEmitted", "late"),
    ]


async def test_reading_n_seals_and_acked_waits_for_all_of_it() -> None:
    pump = Rounds()
    voice = emitter(pump)
    say(voice, "a")
    n = voice.n
    assert n == 1
    waiting = asyncio.create_task(voice.acked(n))
    await asyncio.sleep(0)
    assert pump.hurried == 1
    assert not waiting.done()
    pump.round()
    await waiting
    assert (voice.log.first_off, voice.log.last_off) == (0, 1)
    await voice.acked(n)  # again: at once


async def test_the_fence_is_acked_before_anything_else_counts() -> None:
    pump = Rounds()
    voice = emitter(pump, high_n=5)
    waiting = asyncio.create_task(voice.acked(5))
    await asyncio.sleep(0)
    assert not waiting.done(), "high_n is what the fence itself stands at"
    pump.round()
    await waiting
    assert isinstance(pump.log[0], AttemptStarted)
    assert pump.log[0].n == 5
    voice.emit(StepStarted, path="", step=1, node="x", task_id="t")
    pump.round()
    assert pump.log[1].n == 6


async def test_thread_events_go_before_the_fence_and_do_not_stand_for_it() -> None:
    pump = Rounds()
    records = TurnRecords(CODEC, tenant="a", thread_id="t", turn_id="u", epoch=1)
    voice = TurnEmitter(pump, TO, records, high_n=3)
    resolved = InputResolved(
        event_id="i", tenant="a", thread_id="t", turn_id="u", epoch=0, n=0, interrupt_id="x", rev=1
    )
    voice.start(resolved=(resolved,), reason="first", base=0, keep_n=0, high_n=3)
    sender, n, _, _, _ = pump.queue[0]
    sender.landed(n, 0)
    waiting = asyncio.create_task(voice.acked(3))
    await asyncio.sleep(0)
    assert not waiting.done()
    pump.queue.pop(0)
    pump.round()
    await waiting
    assert isinstance(pump.log[0], AttemptStarted)


async def test_a_record_too_large_is_refused_before_its_n_and_hurts_nothing_else() -> None:
    pump = Rounds()
    voice = emitter(pump, record_bytes_max=10_000)
    voice.emit(CustomEmitted, path="p", name="a", payload="1")
    with pytest.raises(RecordTooLargeError):
        voice.emit(CustomEmitted, path="p", name="b", payload="x" * 20_000)
    voice.emit(CustomEmitted, path="p", name="c", payload="2")
    pump.round()
    assert [(r.n, r.name) for r in pump.log[1:]] == [(1, "a"), (2, "c")]


async def test_long_text_goes_in_pieces_and_the_terminal_without_it() -> None:
    pump = Rounds()
    voice = emitter(pump, record_bytes_max=10_000)
    voice.emit(MessageStarted, path="p", message_id="m")
    text = "흐름🌊" * 10_000
    say(voice, text)
    n = voice.conclude(TurnCompleted, message_id="m", text=text, sha256="d")
    pump.round()
    pieces = [r for r in pump.log if isinstance(r, TokensEmitted)]
    assert "".join(piece.text for piece in pieces) == text
    assert pump.log[-1].text == ""
    assert pump.log[-1].sha256 == "d"
    assert pump.log[-1].n == n == voice.n
    assert all(len(CODEC.encode(r)) < 10_000 for r in pump.log)


async def test_a_closed_emitter_says_its_terminal_and_nothing_else() -> None:
    pump = Rounds()
    voice = emitter(pump)
    say(voice, "kept")
    voice.close()
    say(voice, "lost")
    voice.emit(CustomEmitted, path="p", name="lost", payload="1")
    voice.conclude(TurnCompleted)
    pump.round()
    assert [type(r).__name__ for r in pump.log] == [
        "AttemptStarted",
        "TokensEmitted",
        "TurnCompleted",
    ]


async def test_a_killed_emitter_says_nothing_and_tells_who_waits() -> None:
    pump = Rounds()
    voice = emitter(pump)
    pump.round()
    say(voice, "a")
    waiting = asyncio.create_task(voice.acked(voice.n))
    await asyncio.sleep(0)
    voice.kill()
    with pytest.raises(FencedError):
        await waiting
    pump.round()
    assert len(pump.log) == 1
    with pytest.raises(FencedError):
        await voice.acked(voice.n)


async def test_a_refusal_ends_it_once() -> None:
    told: list[Exception] = []
    pump = Rounds()
    voice = emitter(pump, on_refused=told.append)
    waiting = asyncio.create_task(voice.acked(0))
    await asyncio.sleep(0)
    error = ProduceRefusedError("no")
    voice.log.refused(error)
    voice.log.refused(ProduceRefusedError("again"))
    with pytest.raises(ProduceRefusedError):
        await waiting
    assert told == [error]
    assert voice.log.dead
    assert voice.closed


async def test_a_turn_that_says_too_much_is_stopped() -> None:
    pump = Rounds()
    voice = emitter(pump, unacked_bytes_max=10_000)
    voice.emit(CustomEmitted, path="p", name="a", payload="x" * 9_000)
    voice.emit(CustomEmitted, path="p", name="a", payload="x" * 9_000)
    with pytest.raises(OutputOverrunError):
        voice.emit(CustomEmitted, path="p", name="a", payload="x")
    pump.round()
    voice.emit(CustomEmitted, path="p", name="a", payload="acks came: there is room again")


async def test_a_turn_that_emits_without_end_is_stopped_and_can_still_end() -> None:
    """Its events count over all attempts, its tokens by themselves: many become one event."""
    pump = Rounds()
    voice = emitter(pump, high_n=990, events_max=1000)
    for _ in range(11):
        voice.emit(CustomEmitted, path="p", name="a", payload="x")
    with pytest.raises(OutputOverrunError, match="TURNSTREAM_TURN_EVENTS_MAX"):
        voice.emit(CustomEmitted, path="p", name="a", payload="x")
    assert voice.n == 1001
    voice.emit(CustomEmitted, path="p", name="a", payload="the tool was stopped")
    assert voice.conclude(TurnFailed, code="output_overrun", message="") == 1003
    pump.round()
    voice = emitter(pump, events_max=1000)
    for _ in range(10):
        for _ in range(100):
            say(voice, "x")
        pump.round()
    with pytest.raises(OutputOverrunError):
        say(voice, "x")
    assert voice.n == 10


async def test_lone_surrogates_become_u_fffd() -> None:
    pump = Rounds()
    voice = emitter(pump)
    say(voice, "a\ud800b")
    voice.emit(CustomEmitted, path="p", name="a", payload="\udfff")
    pump.round()
    assert pump.log[1].text == "a\ufffdb"
    assert pump.log[2].payload == "\ufffd"


MESSAGES = st.sampled_from(["m1", "m2", "m3"])
ACTIONS = st.one_of(
    st.tuples(st.just("token"), MESSAGES, st.integers(0, 2), st.text(max_size=4)),
    st.tuples(st.just("event")),
    st.tuples(st.just("round")),
    st.tuples(st.just("n")),
)


@given(st.lists(ACTIONS, max_size=60), st.integers(600, 4_000))
@settings(max_examples=200, deadline=None)
def test_whatever_the_rounds_the_reader_sees_the_same(
    actions: list[tuple], record_bytes_max: int
) -> None:
    """Joining moves no token past another event, and loses, doubles and mixes up none."""

    async def run() -> None:
        pump = Rounds()
        voice = emitter(pump, record_bytes_max=record_bytes_max)
        said: dict[tuple[str, int], str] = defaultdict(str)
        order: list[object] = []  # per event: how long each text was when it was said
        for message in ("m1", "m2", "m3"):
            voice.emit(MessageStarted, path="p", message_id=message)
        for action in actions:
            match action:
                case ("token", message, block, text):
                    say(voice, text, message, block)
                    said[message, block] += text
                case ("event",):
                    voice.emit(StepStarted, path="p", step=1, node="x", task_id="t")
                    order.append(dict(said))
                case ("round",):
                    pump.round()
                case ("n",):
                    assert voice.n >= 0
        pump.round()
        assert [r.n for r in pump.log] == list(range(len(pump.log)))
        fold = ThreadFold()
        seen: dict[tuple[str, int], str] = defaultdict(str)
        at_events = []
        for offset, record in enumerate(pump.log):
            fold.apply(record, offset)
            if isinstance(record, TokensEmitted):
                seen[record.message_id, record.block] += record.text
            elif isinstance(record, StepStarted):
                at_events.append({k: v for k, v in seen.items() if v})
        assert at_events == [{k: v for k, v in then.items() if v} for then in order]
        view = fold.turns["turn"]
        assert view.gaps == 0
        shown = {
            (m.message_id, index): block.text
            for m in transcript(view).messages
            for index, block in m.blocks.items()
            if block.text
        }
        clean = {k: v for k, v in said.items() if v}
        assert shown == clean

    asyncio.run(run())
