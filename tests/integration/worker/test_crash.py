"""Workers that die, leave, lose their lease or their log: the turn goes on, and readers agree."""

from __future__ import annotations

import asyncio
import json
import signal
import time
import uuid
from typing import TYPE_CHECKING

from turnstream.schemas.fold.fold import ThreadFold, Verdict
from turnstream.schemas.fold.transcript import transcript
from turnstream.schemas.records.events import (
    AttemptStarted,
    TokensEmitted,
    TurnCancelled,
    TurnCompleted,
)
from turnstream.schemas.text import text_sha256

if TYPE_CHECKING:
    from tests.integration.conftest import Process


def tokens_of(scene, thread: str, turn: str) -> int:
    view = scene.view(thread, turn)
    return sum(isinstance(item, TokensEmitted) for item in view.items) if view else 0


async def two(scene, **environment: str) -> dict[str, Process]:
    """Two worker processes, both ready: their start takes longer than a turn."""
    workers = {name: scene.process(name, **environment) for name in ("first", "second")}
    for worker in workers.values():
        await worker.ready()
    return workers


async def owner_of(scene, thread: str, turn: str, tokens: int) -> str:
    """The name of the worker that runs the turn, once it has said so many tokens."""
    await scene.until(lambda: tokens_of(scene, thread, turn) > tokens)
    starts = [r for _, _, r in scene.log if isinstance(r, AttemptStarted) and r.turn_id == turn]
    return starts[-1].worker


async def check_whole(scene, thread: str, turn: str) -> None:
    """The fold of the log, the recorded digests and the ledger's outcome say the same."""
    view = scene.view(thread, turn)
    assert view is not None
    assert view.gaps == 0
    assert not view.partial
    for message in transcript(view).messages:
        if message.finished:
            assert message.intact
    row = await scene.closed(turn)
    outcome = json.loads(row["outcome"])
    shown = transcript(view).messages
    text = shown[-1].text if shown else ""
    assert outcome.get("sha256", text_sha256("")) == text_sha256(text)
    assert outcome.get("text", "") == text
    terminals = [r for _, _, r in scene.log if r.turn_id == turn and r.terminal]
    assert terminals
    assert len({type(t).__name__ for t in terminals}) == 1


async def test_kill_9_at_a_token_with_another_standing_by(scene) -> None:
    workers = await two(scene, LEASE_TTL_S="600")
    turn = await scene.start("t1", "tokens=150 rate=50")
    owner = await owner_of(scene, "t1", turn, 10)
    killed = time.monotonic()
    workers[owner].kill()
    await scene.until(lambda: (v := scene.view("t1", turn)) and v.attempts == 2)
    took = time.monotonic() - killed
    print(f"next attempt {took:.2f} s after kill -9")
    view = await scene.done("t1", turn)
    assert isinstance(view.terminal, TurnCompleted)
    assert view.terminal.usage[0].output_tokens == 150
    await check_whole(scene, "t1", turn)
    assert Verdict.REWOUND in scene.verdicts


async def test_kill_9_with_nobody_standing_by(scene) -> None:
    first = scene.process("first")
    await first.ready()
    turn = await scene.start("t1", "tokens=60 rate=60")
    waiting = await scene.start("t1", "tokens=5")
    await scene.until(lambda: tokens_of(scene, "t1", turn) > 5)
    first.kill()
    async with scene.worker():
        view = await scene.done("t1", turn)
        assert isinstance(view.terminal, TurnCompleted)
        assert view.attempts == 2
        assert isinstance((await scene.done("t1", waiting)).terminal, TurnCompleted)
        await check_whole(scene, "t1", turn)
        await check_whole(scene, "t1", waiting)


async def test_kill_9_after_a_step_keeps_what_it_had_committed(scene) -> None:
    """The tool's step is over and committed; the second model call is where the worker dies."""
    first = scene.process("first")
    await first.ready()
    turn = await scene.start("t1", 'tool=current_time({"zone":"Asia/Seoul"}) tokens=80 rate=40')
    await scene.until(lambda: tokens_of(scene, "t1", turn) > 15)
    first.kill()
    async with scene.worker():
        view = await scene.done("t1", turn)
        assert isinstance(view.terminal, TurnCompleted)
        shown = transcript(view)
        assert [tool.name for tool in shown.tools] == ["current_time"]
        assert shown.tools[0].state == "finished"
        await check_whole(scene, "t1", turn)
        # the tool was not called again: only the first attempt asked the model for it
        starts = [r for _, _, r in scene.log if type(r).__name__ == "ToolStarted"]
        assert len(starts) == 1


async def test_sigterm_hands_over_at_once(scene) -> None:
    workers = await two(scene, DRAIN_TIMEOUT_S="0", LEASE_TTL_S="600")
    turn = await scene.start("t1", "tokens=150 rate=50")
    owner = await owner_of(scene, "t1", turn, 10)
    told = time.monotonic()
    leaving = asyncio.create_task(workers[owner].terminate())
    await scene.until(lambda: (v := scene.view("t1", turn)) and v.attempts == 2)
    took = time.monotonic() - told
    print(f"next attempt {took:.2f} s after SIGTERM")
    assert await leaving == 0
    view = await scene.done("t1", turn)
    assert isinstance(view.terminal, TurnCompleted)
    await check_whole(scene, "t1", turn)
    result = (await scene.until(lambda: scene.results))[0]
    assert result.attempts == 1, "a release does not count as an attempt"


async def test_sigterm_lets_short_turns_end(scene) -> None:
    first = scene.process("first", DRAIN_TIMEOUT_S="20")
    await first.ready()
    turn = await scene.start("t1", "tokens=50 rate=50")
    await scene.until(lambda: tokens_of(scene, "t1", turn) > 5)
    assert await first.terminate() == 0
    view = await scene.done("t1", turn)
    assert view.attempts == 1
    assert isinstance(view.terminal, TurnCompleted)


async def test_cancel_keeps_the_text_and_the_thread_goes_on(scene) -> None:
    async with scene.worker():
        turn = await scene.start("t1", "tokens=100000 rate=50")
        await scene.until(lambda: tokens_of(scene, "t1", turn) > 10)
        await scene.cancel("t1", turn)
        view = await scene.done("t1", turn)
        assert isinstance(view.terminal, TurnCancelled)
        shown = transcript(view).messages[-1].text
        assert shown
        assert view.terminal.text == shown
        await check_whole(scene, "t1", turn)
        result = (await scene.until(lambda: scene.results))[0]
        assert (result.status, result.text) == ("cancelled", shown)
        # the next turn's model sees what had been said
        after = await scene.start("t1", "tokens=3")
        assert isinstance((await scene.done("t1", after)).terminal, TurnCompleted)
        said = scene.model.requests[-1].messages
        assert any(shown in str(message) for message in said)


async def test_cancel_of_a_turn_that_waits_and_of_one_that_has_not_come_yet(scene) -> None:
    async with scene.worker():
        running = await scene.start("t1", "tokens=40 rate=40")
        queued = await scene.start("t1", "tokens=3")
        await scene.cancel("t1", queued)
        view = await scene.done("t1", queued)
        assert view.terminal.outcome == "cancelled"
        early = str(uuid.uuid4())
        await scene.cancel("t2", early)
        await scene.start("t2", "tokens=3", turn_id=early)
        view = await scene.done("t2", early)
        assert view.terminal.outcome == "cancelled"
        assert isinstance((await scene.done("t1", running)).terminal, TurnCompleted)
        for turn in (running, queued, early):
            await scene.closed(turn)


async def test_a_frozen_worker_writes_void_records_and_goes_on_as_another(scene) -> None:
    workers = await two(scene)
    turn = await scene.start("t1", "tokens=150 rate=50")
    owner = await owner_of(scene, "t1", turn, 10)
    frozen = workers.pop(owner)
    (other,) = workers.values()
    frozen.process.send_signal(signal.SIGSTOP)
    try:
        await scene.until(lambda: (v := scene.view("t1", turn)) and v.attempts == 2)
    finally:
        frozen.process.send_signal(signal.SIGCONT)
    view = await scene.done("t1", turn)
    assert isinstance(view.terminal, TurnCompleted)
    await check_whole(scene, "t1", turn)
    # alone, under a new lease, it works again
    other.kill()
    await frozen.ready()
    after = await scene.start("t1", "tokens=3")
    assert isinstance((await scene.done("t1", after)).terminal, TurnCompleted)


async def test_a_fresh_reader_folds_the_whole_log_to_the_same(scene) -> None:
    async with scene.worker():
        turns = [(f"t{i % 3}", await scene.start(f"t{i % 3}", f"tokens={i + 1}")) for i in range(9)]
        for thread, turn in turns:
            await scene.done(thread, turn)
    folds: dict[str, ThreadFold] = {}
    for _, offset, record in sorted(scene.log, key=lambda entry: entry[:2]):
        folds.setdefault(record.thread_id, ThreadFold()).apply(record, offset)
    for thread, turn in turns:
        assert transcript(folds[thread].turns[turn]) == transcript(scene.view(thread, turn))
