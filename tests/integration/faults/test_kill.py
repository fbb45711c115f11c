"""A worker dies in mid-turn, or freezes: the turn completes, and all who watch it show the same.

One worker runs eight turns, each at another place: at a token, in a tool, between a tool's writes
and the next token, with one of two parallel branches finished, with a nested graph's first step
finished; by the built-in agent, and by graphs of a langgraph.json. Then it is killed (-9) with
another worker standing by, or without one (which is started afterwards), or it is stopped for
longer than its lease and goes on afterwards. Each turn is watched by the stock SDK on WebSocket and
on SSE, by a raw WebSocket, and by a consumer of Kafka that folds what it reads.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import statistics
import sys
import time
import uuid
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest
import pytest_asyncio

from turnstream.schemas.fold.fold import Verdict
from turnstream.schemas.fold.transcript import transcript
from turnstream.schemas.ids import event_id
from turnstream.schemas.records.events import (
    AttemptStarted,
    MessageFinished,
    MessageStarted,
    StepFinished,
    TokensEmitted,
    ToolFinished,
    TurnCompleted,
)
from turnstream.schemas.text import text_sha256

sys.path.insert(0, str(Path(__file__).parents[1]))
from kill_clients import PlainSocket, Sdk, Shown, shown_in
from kill_stage import Process, Stage, asking

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

pytestmark = pytest.mark.asyncio(loop_scope="module")

LOOK_UP = 'tool=look_up({"what":"rain"}) tokens=20 rate=100'
SPEECH = "tokens=120 rate=60"
END_S = 60.0


@dataclass(frozen=True)
class Case:
    """A turn to be interrupted; `ran`: how often its nodes have run when it is over."""

    graph: str
    text: str
    ran: dict[str, int]
    model: str = "scripted"


CASES = {
    "tool": Case("agent", LOOK_UP, {"tool": 2}),
    "between": Case("agent", LOOK_UP, {"tool": 1}, "held"),
    "brought-tool": Case("talker", LOOK_UP, {"model": 2, "tool": 2}),
    "brought-between": Case("talker", LOOK_UP, {"model": 3, "tool": 1}, "held"),
    "branches": Case("branches", "go", {"quick": 1, "slow": 2, "join": 1}),
    "nested": Case("nested", "go", {"first": 1, "second": 2, "after": 1}),
    "token": Case("agent", SPEECH, {}),
    "brought-token": Case("talker", SPEECH, {"model": 2}),
}
BETWEEN = [name for name in CASES if "between" in name]
SPEAKING = [name for name in CASES if "token" in name]
HALTING = [name for name in CASES if name not in SPEAKING]


@dataclass
class Watched:
    """One case's turn and its clients; `late` is the record that its dead worker sent too late."""

    case: Case
    thread: str
    plain: PlainSocket
    clients: dict[str, asyncio.Task[Shown]] = field(default_factory=dict)
    late: TokensEmitted | None = None
    fence_s: float = -1.0
    token_s: float = -1.0

    def shown(self) -> dict[str, Shown]:
        """What each client shows; raises what went wrong with one."""
        for name, client in self.clients.items():
            assert client.done(), f"{name} still waits for the end"
        return {name: client.result() for name, client in self.clients.items()}


@dataclass
class Aftermath:
    """What is left to be looked at."""

    mode: str
    stage: Stage
    turns: dict[str, Watched]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage(stack: dict[str, str], tmp_path_factory: Any) -> Any:
    admin, name = stack["database"], f"t{uuid.uuid4().hex[:12]}"
    with psycopg.connect(admin, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
    database = urlunsplit(urlsplit(admin)._replace(path=f"/{name}"))
    try:
        async with contextlib.AsyncExitStack() as opened:
            made = Stage(stack["kafka"], database, f"{name}-", tmp_path_factory.mktemp("kill"))
            await made.open(opened)
            yield made
    finally:
        with psycopg.connect(admin, autocommit=True) as connection:
            connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


async def watch(stage: Stage, name: str, partition: int | None, transport: str) -> Watched:
    """Let everybody subscribe, and then one of them start the turn."""
    case = CASES[name]
    thread = await stage.thread(name, partition)
    plain = PlainSocket(stage.url, thread)
    watched = Watched(case, thread, plain)
    starting, *others = sorted(("websocket", "sse"), key=lambda kind: kind != transport)
    watched.clients["socket"] = asyncio.create_task(plain.watch())
    waiting = [plain.subscribed.wait()]
    for kind in others:
        sdk = Sdk(stage.url, thread, case.graph, kind)
        watched.clients[f"sdk-{kind}"] = asyncio.create_task(sdk.watch())
        waiting.append(sdk.subscribed.wait())
    async with asyncio.timeout(60):
        await asyncio.gather(*waiting)
    sdk = Sdk(stage.url, thread, case.graph, starting)
    start = {"input": asking(case.text), "config": {"configurable": {"model": case.model}}}
    watched.clients[f"sdk-{starting}"] = asyncio.create_task(sdk.watch(start))
    return watched


async def reached(stage: Stage, name: str, watched: Watched) -> bool:
    """Tell whether a turn is where its case wants it."""
    thread = watched.thread
    view, ran = stage.view(thread), stage.ran(thread)
    if view is None:
        return False
    if name in SPEAKING:
        return len(watched.plain.seen) > 20
    if name in ("branches", "nested"):
        slow, done = ("slow", "quick") if name == "branches" else ("second", "first")
        said = {m.path: m.text for m in transcript(view).messages}
        halted = any(text.count(slow) == 6 for text in said.values())
        _, keep = await stage.kept(thread)
        ended = [item.path for item in view.items if isinstance(item, StepFinished)]
        return (
            halted
            and done in ran
            and any(
                path == entry["path"] or path.startswith(entry["path"])
                for entry in keep
                for path in ended
            )
        )
    return "tool" in ran


async def play(stage: Stage, mode: str) -> Aftermath:
    """Bring eight turns to their places on one worker, end or freeze it, and wait for the ends."""
    workers = {name: stage.worker(name, mode) for name in _names(mode)}
    await asyncio.gather(*(worker.ready() for worker in workers.values()))
    owner, partition = await stage.probe()
    victim = workers.pop(owner)
    turns: dict[str, Watched] = {}

    async def bring(names: list[str]) -> None:
        for name in names:
            transport = "sse" if len(turns) % 2 else "websocket"
            turns[name] = await watch(stage, name, partition, transport)
        for name in names:
            await stage.until(lambda name=name: reached(stage, name, turns[name]), f"{name} there")

    await bring(HALTING)
    stage.held.hold()
    for name in BETWEEN:
        stage.open_gate(turns[name].thread)
    await stage.until(lambda: len(stage.held.waiting) == len(BETWEEN), "model calls after tools")
    await bring(SPEAKING)
    owners = {stage.log[stage.turn_of(w.thread)][0].worker for w in turns.values()}
    assert owners == {victim.name}

    ended_at = time.monotonic()
    victim.freeze() if mode == "frozen" else victim.kill()
    for watched in turns.values():
        stage.open_gate(watched.thread)
    if mode != "frozen":
        await stage.until(lambda: not stage.held.waiting, "the end of a dead worker's requests")
    stage.held.let_go()
    if mode == "alone":
        workers["after"] = stage.worker("after", mode)
    for name, watched in turns.items():
        turn = stage.turn_of(watched.thread)
        came = await stage.until(lambda turn=turn: _second(stage, turn), f"{name} again")
        watched.fence_s = came - ended_at
        watched.late = _late(stage, turn)
        await stage.say(watched.late)
    if mode == "frozen":
        victim.thaw()
        await stage.until(lambda: "lease_lost" in victim.log.read_text(), "the lost lease")
        await victim.ready()  # under a new lease, as another worker
    await asyncio.wait([c for w in turns.values() for c in w.clients.values()], timeout=END_S)
    for watched in turns.values():
        fence_at = watched.fence_s + ended_at
        after = [at for at, _ in watched.plain.seen if at >= fence_at - 0.005]
        # a token may be here before the stage, which looks now and then, has seen the fence
        watched.token_s = after[0] - ended_at if after else watched.fence_s
    closings = [stage.closed(stage.turn_of(watched.thread)) for watched in turns.values()]
    for closing in closings:
        with contextlib.suppress(TimeoutError):  # its own test says so
            await closing
    for worker in (*workers.values(), victim):
        worker.kill()  # so that the next ones have the machine for themselves
    return Aftermath(mode, stage, turns)


def _names(mode: str) -> tuple[str, ...]:
    return (f"{mode}-1",) if mode == "alone" else (f"{mode}-1", f"{mode}-2")


def _second(stage: Stage, turn: str) -> float:
    """When the fence of a later attempt was read, 0 before."""
    starts = [r.epoch for r in stage.log[turn] if isinstance(r, AttemptStarted)]
    return stage.came[turn, starts[1]] if len(starts) > 1 else 0.0


def _late(stage: Stage, turn: str) -> TokensEmitted:
    """A record of the first attempt that lands behind the fence of the second."""
    log = stage.log[turn]
    first = log[0].epoch
    last = max((r for r in log if r.epoch == first), key=lambda record: record.n)
    started = next(r for r in log if isinstance(r, MessageStarted))
    return TokensEmitted(
        event_id=event_id(turn, first, last.n + 1),
        tenant=last.tenant,
        thread_id=last.thread_id,
        turn_id=turn,
        epoch=first,
        n=last.n + 1,
        path=started.path,
        at=time.time_ns() // 1000,
        message_id=started.message_id,
        block=0,
        kind="text",
        text="too late",
    )


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["standby", "alone", "frozen"])
async def aftermath(request: Any, stage: Stage) -> Any:
    played = await play(stage, request.param)
    yield played
    clients = [c for watched in played.turns.values() for c in watched.clients.values()]
    for client in clients:
        client.cancel()
    await asyncio.gather(*clients, return_exceptions=True)


async def check_all_agree(stage: Stage, watched: Watched) -> None:
    """Compare what clients, log, ledger, result and auditor have of a completed turn."""
    turn = stage.turn_of(watched.thread)
    clients = watched.shown()
    row = await stage.closed(turn)
    view = await stage.done(watched.thread)
    assert isinstance(view.terminal, TurnCompleted)
    assert (view.gaps, view.partial) == (0, False)
    log = shown_in(view)
    assert "too late" not in "".join(log.messages.values())
    for client, shown in clients.items():
        assert shown.messages == log.messages, client
        assert shown.tools == log.tools, client
    messages = [m for m in transcript(view).messages if m.role == "assistant"]
    assert all(message.finished and message.intact for message in messages)

    # the stored hash, in the ledger, in the terminal and in the result
    text = messages[-1].text
    assert text
    digest = text_sha256(text)
    outcome = json.loads(row["outcome"])
    assert (outcome["status"], outcome["text"], outcome["sha256"]) == ("completed", text, digest)
    assert (view.terminal.text, view.terminal.sha256) == (text, digest)
    results = await stage.until(lambda: stage.results[turn], "the result")
    assert (results[0].status, results[0].text, results[0].sha256) == ("completed", text, digest)
    assert all(result == results[0] for result in results)
    for client, shown in clients.items():
        assert shown.final in (None, text), client
    counted = [c for c in stage.changes[turn] if c.record.terminal]
    assert [c.verdict for c in counted].count(Verdict.ACCEPTED) == 1

    # and an auditor, who reads the topic alone, agrees
    replay = await stage.replayed(turn)
    assert replay.problems == []
    assert {check.verdict for check in replay.checks} == {"match"}
    assert shown_in(replay.view) == log


@pytest.mark.parametrize("name", CASES)
async def test_all_show_what_the_log_and_the_ledger_hold(aftermath: Aftermath, name: str) -> None:
    stage, watched = aftermath.stage, aftermath.turns[name]
    await check_all_agree(stage, watched)
    assert stage.view(watched.thread).attempts == 2
    assert sum(record.terminal for record in stage.log[stage.turn_of(watched.thread)]) == 1


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.ran])
async def test_what_had_finished_is_not_run_again(aftermath: Aftermath, name: str) -> None:
    watched = aftermath.turns[name]
    assert Counter(aftermath.stage.ran(watched.thread)) == watched.case.ran


@pytest.mark.parametrize("name", HALTING)
async def test_what_had_finished_is_never_taken_back(aftermath: Aftermath, name: str) -> None:
    """What was said before the crash by the step, branch or inner step that was committed."""
    stage, watched = aftermath.stage, aftermath.turns[name]
    turn = stage.turn_of(watched.thread)
    changes = stage.changes[turn]
    again = next(
        i
        for i, change in enumerate(changes)
        if isinstance(change.record, AttemptStarted) and change.record.reason == "again"
    )
    before = [change.record for change in changes[:again]]
    # a tool's message has the id that the checkpoint after its step gives it, and is said with it:
    # of a tool it is the result that must stay
    of_tools = {r.message_id for r in before if isinstance(r, MessageStarted) and r.role == "tool"}
    finished = {r.message_id for r in before if isinstance(r, MessageFinished)} - of_tools
    called = {r.tool_call_id for r in before if isinstance(r, ToolFinished)}
    assert finished
    shown = shown_in(stage.view(watched.thread))
    assert finished <= shown.messages.keys()
    assert called <= shown.tools.keys()
    taken_back = {
        item.message_id
        for change in changes
        for item in change.dropped
        if isinstance(item, MessageStarted)
    }
    assert not finished & taken_back
    for client, seen in watched.shown().items():
        assert not finished & seen.taken_back, client
    if name in ("branches", "nested"):
        assert taken_back  # of the other branch, of the step after


@pytest.mark.parametrize("name", CASES)
async def test_what_comes_behind_the_fence_is_void(aftermath: Aftermath, name: str) -> None:
    stage, watched = aftermath.stage, aftermath.turns[name]
    changes = stage.changes[stage.turn_of(watched.thread)]
    second = next(
        i
        for i, c in enumerate(changes)
        if isinstance(c.record, AttemptStarted) and c.record.reason == "again"
    )
    behind = [c for c in changes[second:] if c.record.epoch < changes[second].record.epoch]
    assert watched.late in [change.record for change in behind]
    assert {change.verdict for change in behind} == {Verdict.IGNORED}


async def test_next_tokens_come_soon(aftermath: Aftermath) -> None:
    fences = [watched.fence_s for watched in aftermath.turns.values()]
    tokens = [watched.token_s for watched in aftermath.turns.values()]
    print(
        f"\n{aftermath.mode}: next attempt after {statistics.median(fences):.2f} s (p50; "
        f"most {max(fences):.2f} s), next token at the client after "
        f"{statistics.median(tokens):.2f} s (p50; most {max(tokens):.2f} s), "
        f"{len(tokens)} turns at once"
    )
    assert max(tokens) < END_S


@contextlib.asynccontextmanager
async def alone(stage: Stage, group: str) -> AsyncIterator[Callable[[], Awaitable[Process]]]:
    """Give what starts the next worker, one at a time, and end the last."""
    workers: list[Process] = []

    async def start() -> Process:
        workers.append(stage.worker(f"{group}-{len(workers)}", f"{group}-{len(workers)}"))
        await workers[-1].ready()
        return workers[-1]

    try:
        yield start
    finally:
        for worker in workers:
            worker.kill()


async def test_one_turn_outlives_three_workers(stage: Stage) -> None:
    async with alone(stage, "outlived") as start:
        worker = await start()
        watched = await watch(stage, "token", None, "websocket")
        plain = watched.plain
        for kills in range(1, 4):
            tokens = len(plain.seen) + 15
            await stage.until(lambda upto=tokens: len(plain.seen) > upto, f"tokens {kills}")
            worker.kill()
            worker = await start()
            await stage.until(lambda upto=kills: plain.rewinds == upto, f"rewind {kills}")
        await asyncio.wait(watched.clients.values(), timeout=END_S)
        await check_all_agree(stage, watched)
        view = stage.view(watched.thread)
        assert view.attempts == 4
        epochs = [r.epoch for r in stage.log[view.turn_id] if isinstance(r, AttemptStarted)]
        assert epochs == sorted(set(epochs))


async def test_kill_9_between_the_end_and_its_closing(stage: Stage) -> None:
    """The next owner says the end again; readers see one, and the results are equal."""
    async with alone(stage, "closing") as start:
        worker = await start()
        async with stage.closing_waits():
            watched = await watch(stage, "branches", None, "sse")
            stage.open_gate(watched.thread)
            await stage.until(stage.waits_to_close, "the closing")
            worker.kill()
        await start()
        await asyncio.wait(watched.clients.values(), timeout=END_S)
        await check_all_agree(stage, watched)
        turn = stage.turn_of(watched.thread)
        assert Counter(stage.ran(watched.thread)) == {"quick": 1, "slow": 1, "join": 1}
        await stage.until(lambda: len(stage.results[turn]) == 2, "the result again")
        assert stage.results[turn][0] == stage.results[turn][1]

        def ends() -> list[Verdict]:
            return [c.verdict for c in stage.changes[turn] if c.record.terminal]

        await stage.until(lambda: len(ends()) >= 2, "the end again")
        assert ends() == [Verdict.ACCEPTED, Verdict.IGNORED]
