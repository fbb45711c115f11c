"""Questions of graphs and tools, and answers that are in time, wrong, late, foreign or twice."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from pathlib import Path
from typing import Any

import pytest

from turnstream.schemas.records.events import (
    InputRequested,
    InputResolved,
    TurnCancelled,
    TurnCompleted,
    TurnFailed,
    TurnInterrupted,
    TurnRejected,
)

GRAPHS = Path(__file__).parents[1] / "graphs" / "asking.json"


async def ask(scene: Any, graph: str, thread: str = "t1") -> dict[str, Any]:
    """Start a turn that asks; its questions by what they ask."""
    turn = await scene.start(thread, "go", graph=graph)
    view = await scene.done(thread, turn)
    assert isinstance(view.terminal, TurnInterrupted), view.terminal
    return questions(view)


def questions(view: Any) -> dict[str, Any]:
    found = {}
    for one in view.terminal.interrupts:
        payload = json.loads(one.payload)
        found[payload["question"] if isinstance(payload, dict) else payload] = one
    said = {item.interrupt_id: item for item in view.items if isinstance(item, InputRequested)}
    for one in found.values():  # what the terminal says is what was said before
        asked = said[one.id]
        assert (asked.payload, asked.response_schema, asked.expires_at) == (
            one.payload,
            one.response_schema,
            one.expires_at,
        )
    return found


async def answer(
    scene: Any,
    answers: dict[str, Any],
    *,
    graph: str = "several",
    thread: str = "t1",
    actor: str = "kim",
    turn: str = "",
    **where: Any,
) -> str:
    turn = turn or str(uuid.uuid4())
    record = {"type": "ResumeTurn", "thread_id": thread, "turn_id": turn, "graph": graph}
    await scene.send({**record, "answers": answers, "actor": actor}, key=thread.encode(), **where)
    return turn


def board(scene: Any, thread: str = "t1") -> dict[str, str]:
    """Who closed which question, as readers know it."""
    fold = scene.folds[f"default/{thread}"]
    return {r.interrupt_id: r.actor for r in fold.board.values() if isinstance(r, InputResolved)}


async def open_ids(scene: Any, thread: str = "t1") -> set[str]:
    text = await scene.db.fetchval(
        "SELECT interrupt FROM threads WHERE thread_key = $1", f"default/{thread}"
    )
    return set(json.loads(text)["ids"]) if text else set()


async def test_several_questions_are_answered_one_by_one(scene) -> None:
    async with scene.worker(langgraph_json=GRAPHS):
        asked = await ask(scene, "several")
        assert set(asked) == {"decide", "count"}
        decide, count = asked["decide"].id, asked["count"].id
        assert json.loads(asked["count"].response_schema)["required"] == ["count"]
        first = await answer(scene, {decide: {"decision": "yes", "amount": 3}})
        view = await scene.done("t1", first)
        assert isinstance(view.terminal, TurnInterrupted)
        assert {one.id for one in view.terminal.interrupts} == {count}
        assert board(scene) == {decide: "kim"}
        stale = await answer(scene, {decide: {"decision": "no"}})
        assert (await scene.done("t1", stale)).terminal.reason == "unknown_interrupt"
        last = await answer(scene, {count: {"count": 7}}, actor="lee")
        view = await scene.done("t1", last)
        assert isinstance(view.terminal, TurnCompleted), view.terminal
        assert board(scene) == {decide: "kim", count: "lee"}
        await scene.closed(last)
        said = [item.text for t in (first, last) for item in scene.view("t1", t).items
                if type(item).__name__ == "TokensEmitted"]  # fmt: skip
        assert said == ["decided yes 3", "counted 7"]


async def test_both_at_once(scene) -> None:
    async with scene.worker(langgraph_json=GRAPHS):
        asked = await ask(scene, "several")
        both = {asked["decide"].id: {"decision": "no"}, asked["count"].id: {"count": 1}}
        turn = await answer(scene, both)
        assert isinstance((await scene.done("t1", turn)).terminal, TurnCompleted)
        assert set(board(scene)) == set(both)


@pytest.mark.parametrize(
    ("which", "wrong", "field"),
    [
        ("count", {"count": "seven"}, "count"),
        ("count", {}, "count"),
        ("decide", {"decision": "perhaps"}, "decision"),
        ("decide", "yes", ""),
    ],
)
async def test_an_answer_that_does_not_fit_changes_nothing(
    scene, which: str, wrong: Any, field: str
) -> None:
    async with scene.worker(langgraph_json=GRAPHS):
        asked = await ask(scene, "several")
        ids = {one.id for one in asked.values()}
        turn = await answer(scene, {asked[which].id: wrong})
        view = await scene.done("t1", turn)
        assert isinstance(view.terminal, TurnRejected)
        assert view.terminal.reason == "invalid_answer"
        place = ".".join(filter(None, ["answers", asked[which].id, field]))
        assert view.terminal.message.startswith(f"{place}: "), view.terminal.message
        await scene.closed(turn)
        assert await open_ids(scene) == ids
        assert board(scene) == {}
        result = await scene.until(lambda: [r for r in scene.results if r.turn_id == turn])
        assert (result[0].status, result[0].code) == ("rejected", "invalid_answer")
        right = {asked["decide"].id: {"decision": "no"}, asked["count"].id: {"count": 1}}
        turn = await answer(scene, right)
        assert isinstance((await scene.done("t1", turn)).terminal, TurnCompleted)
        assert board(scene) == dict.fromkeys(ids, "kim")


async def test_a_question_left_open_ends_with_the_turn(scene) -> None:
    """One of two is answered; then the turn is stopped: nobody is to wait for the other one."""
    async with scene.worker(langgraph_json=GRAPHS):
        asked = await ask(scene, "slow")
        first, second = asked["first?"].id, asked["second?"].id
        turn = await answer(scene, {first: "yes"}, graph="slow")
        await scene.until(lambda: board(scene) == {first: "kim"})
        await scene.cancel("t1", turn)
        view = await scene.done("t1", turn)
        assert isinstance(view.terminal, TurnCancelled)
        await scene.until(lambda: board(scene) == {first: "kim", second: "superseded"})
        assert await open_ids(scene) == set()


async def test_two_answers_race(scene) -> None:
    async with scene.worker(langgraph_json=GRAPHS):
        asked = (await ask(scene, "steps"))["first?"].id
        turns = await asyncio.gather(
            *(answer(scene, {asked: name}, graph="steps", actor=name) for name in ("a", "b", "c"))
        )
        ends = [(await scene.done("t1", turn)).terminal for turn in turns]
        taken = [end for end in ends if isinstance(end, TurnInterrupted)]
        refused = [end for end in ends if isinstance(end, TurnRejected)]
        assert (len(taken), len(refused)) == (1, 2)
        assert {end.reason for end in refused} == {"unknown_interrupt"}
        # the second question is another: no late answer to the first one was taken for it
        (second,) = taken[0].interrupts
        assert second.id != asked
        winner = board(scene)[asked]
        last = await answer(scene, {second.id: "z"}, graph="steps")
        assert (await scene.done("t1", last)).terminal.text == f"{winner}, then z"


async def test_redelivered_and_foreign_answers(scene) -> None:
    async with scene.worker(langgraph_json=GRAPHS):
        asked = (await ask(scene, "steps"))["first?"].id
        other = (await ask(scene, "steps", thread="t2"))["first?"].id
        # another thread's question, and the same thread id under another tenant
        foreign = await answer(scene, {other: "x"}, graph="steps")
        assert (await scene.done("t1", foreign)).terminal.reason == "unknown_interrupt"
        stranger = await answer(
            scene, {asked: "x"}, graph="steps", topic=scene.topics.turns_of("acme")
        )
        await scene.until(lambda: (v := scene.view("t1", stranger, "acme")) and v.done)
        assert scene.view("t1", stranger, "acme").terminal.reason == "unknown_interrupt"
        assert await open_ids(scene) == {asked}
        assert await open_ids(scene, "t2") == {other}
        turn = await answer(scene, {asked: "one"}, graph="steps")
        for _ in range(2):
            await answer(scene, {asked: "one"}, graph="steps", turn=turn)
        view = await scene.done("t1", turn)
        assert isinstance(view.terminal, TurnInterrupted)
        after = await scene.start("t1", "tokens=2", on_busy="enqueue")
        await scene.done("t1", after)
        assert sum(r.turn_id == turn and r.terminal for _, _, r in scene.log) == 1
        # under the same id with another answer, it is not even a turn
        await answer(scene, {asked: "two"}, graph="steps", turn=turn)
        (letter,) = await scene.until(lambda: scene.letters)
        assert letter.code == "turn_id_reused"


async def test_a_question_that_nobody_answers_in_time(scene) -> None:
    async with scene.worker(langgraph_json=GRAPHS):
        began = time.time()
        asked = (await ask(scene, "timed"))["quick!"]
        assert began + 0.5 <= asked.expires_at / 1e6 <= time.time() + 0.5
        await scene.until(lambda: board(scene) == {asked.id: "expired"})
        assert await open_ids(scene) == set()
        late = await answer(scene, {asked.id: "here"}, graph="timed")
        view = await scene.done("t1", late)
        assert isinstance(view.terminal, TurnRejected)
        assert view.terminal.reason == "interrupt_expired"
        after = await scene.start("t1", "tokens=2")
        assert isinstance((await scene.done("t1", after)).terminal, TurnCompleted)
        assert board(scene) == {asked.id: "expired"}


async def test_tools_ask_and_their_calls_run_once(scene) -> None:
    async with scene.worker(langgraph_json=GRAPHS):
        asked = await ask(scene, "tools")
        assert set(asked) == {"book Seoul?", "book Busan?"}
        first = await answer(scene, {asked["book Seoul?"].id: "ok"}, graph="tools")
        view = await scene.done("t1", first)
        assert set(questions(view)) == {"book Busan?"}
        last = await answer(scene, {asked["book Busan?"].id: "no"}, graph="tools")
        view = await scene.done("t1", last)
        assert isinstance(view.terminal, TurnCompleted), view.terminal
        await scene.closed(last)
        finished = [r.output for _, _, r in scene.log if type(r).__name__ == "ToolFinished"]
        assert finished == ["Seoul: ok", "Busan: no"]


async def test_a_turn_expires_while_it_runs_and_while_it_waits(scene) -> None:
    async with scene.worker():
        soon = int((time.time() + 2.5) * 1e6)
        running = await scene.start("t1", "tokens=100000 rate=30", expires_at=soon)
        blocked = await scene.start("t2", "tokens=100000 rate=30")
        waiting = await scene.start("t2", "tokens=2", expires_at=soon)
        view = await scene.done("t1", running)
        assert isinstance(view.terminal, TurnFailed)
        assert view.terminal.code == "expired"
        assert view.terminal.text, "what it had said is kept"
        view = await scene.done("t2", waiting)
        assert (view.terminal.outcome, view.terminal.code) == ("failed", "expired")
        assert not scene.view("t2", blocked).done, "it did not wait for the one before it"
        after = await scene.start("t1", "tokens=2")
        assert isinstance((await scene.done("t1", after)).terminal, TurnCompleted)
        await scene.cancel("t2", blocked)
        for turn in (running, waiting, blocked):
            await scene.closed(turn)
