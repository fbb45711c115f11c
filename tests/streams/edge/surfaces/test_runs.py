"""The run-scoped projection: pure, so no edge runs here."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from turnstream.connectors.memory.emitter import MemoryEmitter
from turnstream.schemas.fold.fold import ThreadFold
from turnstream.schemas.records import events as ev
from turnstream.schemas.records.results import Outcome
from turnstream.streams.edge.surfaces.plain import SimpleProjection
from turnstream.streams.edge.surfaces.run_endings import ending, run_status
from turnstream.streams.edge.surfaces.run_events import MODES, RunEvent, StateWanted, TaskWanted
from turnstream.streams.edge.surfaces.run_projection import RunProjection
from turnstream.streams.edge.surfaces.run_states import state_events

TURN = "00000000-0000-7000-8000-000000000000"
ENVELOPE = {"tenant": "default", "thread_id": "thread", "turn_id": TURN, "event_id": "e"}


def plain(value: Any) -> Any:
    """A JSON value as a client decodes it."""
    return msgspec.json.decode(msgspec.json.encode(value))


def shown(records: list[Any], *modes: str, subgraphs: bool = False) -> list[tuple[str, Any]]:
    """What a client gets; wanted states as `(state, checkpoint id)`."""
    fold, projection = ThreadFold(), RunProjection(TURN, frozenset(modes), subgraphs=subgraphs)
    out: list[tuple[str, Any]] = []
    for record in records:
        for item in projection.apply(fold.apply(record)):
            if isinstance(item, RunEvent):
                out.append((item.event, plain(item.data)))
            else:
                out.append(("state", item.checkpoint_id))
    return out


def message(emitter: MemoryEmitter, path: str, text: str, message_id: str = "m") -> None:
    emitter.emit(ev.MessageStarted, path=path, message_id=message_id)
    emitter.tokens(path=path, message_id=message_id, block=0, kind="text", text=text)
    usage = ev.Usage(model="m1", input_tokens=2, output_tokens=3)
    emitter.emit(
        ev.MessageFinished, path=path, message_id=message_id, finish_reason="stop", usage=usage
    )


@pytest.fixture
def emitter() -> MemoryEmitter:
    made = MemoryEmitter.started(turn_id=TURN)
    made.emit(ev.StepStarted, path="t1", step=1, node="model", task_id="t1")
    return made


def test_a_message_in_chunks(emitter: MemoryEmitter) -> None:
    message(emitter, "t1", "hello")
    events = shown(emitter.events, "messages-tuple")
    assert events[0] == ("metadata", {"run_id": TURN, "attempt": 1})
    (_, (chunk, about)), (_, (last, _)) = events[1:]
    assert (chunk["type"], chunk["id"], chunk["content"]) == ("AIMessageChunk", "m", "hello")
    assert about["langgraph_node"] == "model"
    assert about["langgraph_checkpoint_ns"] == "model:t1"
    assert last["content"] == ""
    assert last["usage_metadata"]["total_tokens"] == 5
    assert last["response_metadata"] == {"finish_reason": "stop", "model_name": "m1"}


def test_tool_calls_in_chunks_and_whole(emitter: MemoryEmitter) -> None:
    emitter.emit(ev.MessageStarted, path="t1", message_id="m")
    say = {"path": "t1", "message_id": "m", "kind": "tool_args"}
    emitter.tokens(**say, block=0, text='{"a"', tool_call_id="c1", tool_name="f")
    emitter.tokens(**say, block=0, text=":1}")
    emitter.tokens(**say, block=1, text="{nonsense", tool_call_id="c2", tool_name="g")
    emitter.emit(ev.MessageFinished, path="t1", message_id="m")
    chunks = [data[0] for name, data in shown(emitter.events, "messages-tuple")[1:]]
    assert [chunk["tool_call_chunks"] for chunk in chunks[:3]] == [
        [{"name": "f", "args": '{"a"', "id": "c1", "index": 0, "type": "tool_call_chunk"}],
        [{"name": None, "args": ":1}", "id": None, "index": 0, "type": "tool_call_chunk"}],
        [{"name": "g", "args": "{nonsense", "id": "c2", "index": 1, "type": "tool_call_chunk"}],
    ]
    whole = shown(emitter.events, "messages")[-1]
    assert whole[0] == "messages/complete"
    assert whole[1][0]["tool_calls"] == [
        {"name": "f", "id": "c1", "args": {"a": 1}, "type": "tool_call"}
    ]
    assert whole[1][0]["invalid_tool_calls"][0]["id"] == "c2"


def test_each_message_of_the_mode_messages_has_its_metadata_once(emitter: MemoryEmitter) -> None:
    """Streamed, given at once, or said by a nested graph: as LangGraph's server sends them."""
    emitter.emit(ev.MessageStarted, path="t1", message_id="m")
    emitter.tokens(path="t1", message_id="m", block=0, kind="text", text="a")
    emitter.tokens(path="t1", message_id="m", block=0, kind="text", text="b")
    emitter.emit(ev.MessageFinished, path="t1", message_id="m")
    emitter.emit(ev.MessageStarted, path="t1", message_id="w", role="tool", whole=True)
    emitter.emit(ev.MessageFinished, path="t1", message_id="w")
    emitter.emit(ev.MessageStarted, path="t1|t2", message_id="n", whole=True)
    emitter.emit(ev.MessageFinished, path="t1|t2", message_id="n")
    projection = RunProjection(TURN, frozenset({"messages"}), subgraphs=True)
    fold, seen = ThreadFold(), []
    for record in emitter.events:
        for item in projection.apply(fold.apply(record)):
            assert isinstance(item, RunEvent)
            seen.append((item.event, next(iter(item.data)) if "metadata" in item.event else ""))
    assert [one for one in seen if one[0] != "messages/partial"][1:] == [
        ("messages/metadata", "m"),
        ("messages/complete", ""),
        ("messages/metadata", "w"),
        ("messages/complete", ""),
        ("messages/metadata", "n"),
        ("messages/complete", ""),
    ]


def test_steps_as_updates_tasks_and_debug(emitter: MemoryEmitter) -> None:
    end = {"path": "t1", "step": 1, "node": "model", "task_id": "t1"}
    emitter.emit(ev.StepFinished, **end, update='{"messages":\n[]}')
    assert shown(emitter.events, "updates")[1:] == [("updates", {"model": {"messages": []}})]
    tasks = [data for name, data in shown(emitter.events, "tasks")[1:]]
    assert [("input" in task, task.get("result")) for task in tasks] == [
        (True, None),
        (False, {"messages": []}),
    ]
    debug = [data for name, data in shown(emitter.events, "debug")[1:]]
    assert [one["type"] for one in debug] == ["task", "task_result"]


def test_a_failed_step_is_no_update(emitter: MemoryEmitter) -> None:
    end = {"path": "t1", "step": 1, "node": "model", "task_id": "t1"}
    emitter.emit(ev.StepFinished, **end, error="boom")
    assert shown(emitter.events, "updates")[1:] == []
    assert shown(emitter.events, "tasks")[-1][1]["error"] == "boom"


def test_nested_graphs_are_shown_when_asked_for(emitter: MemoryEmitter) -> None:
    emitter.emit(ev.StepStarted, path="t1|t2", step=1, node="inner", task_id="t2")
    message(emitter, "t1|t2", "deep")
    emitter.emit(ev.CustomEmitted, path="t1|t2", name="x", payload='{"a":1}')
    modes = ("messages-tuple", "custom")
    assert len(shown(emitter.events, *modes)) == 1
    nested = shown(emitter.events, *modes, subgraphs=True)[1:]
    assert [name for name, _ in nested] == ["messages|model:t1"] * 2 + ["custom|model:t1"]
    assert nested[0][1][1]["langgraph_checkpoint_ns"] == "model:t1|inner:t2"


def test_a_tools_life(emitter: MemoryEmitter) -> None:
    emitter.emit(ev.ToolStarted, path="t1", tool_call_id="c", name="f", args='{"a":1}')
    emitter.emit(ev.ToolProgressed, path="t1", tool_call_id="c", data='"half"')
    emitter.emit(ev.ToolFailed, path="t1", tool_call_id="c", name="f", code="x", message="no")
    events = shown(emitter.events, "tools", "messages-tuple")[1:]
    assert [data["event"] for name, data in events if name == "tools"] == [
        "on_tool_start",
        "on_tool_event",
        "on_tool_error",
    ]
    answer = events[-1][1][0]
    assert (answer["type"], answer["tool_call_id"], answer["status"]) == ("tool", "c", "error")


def test_a_rewind_takes_messages_back_and_shows_the_truth(emitter: MemoryEmitter) -> None:
    emitter.emit(ev.MessageStarted, path="t1", message_id="m")
    emitter.tokens(path="t1", message_id="m", block=0, kind="text", text="lost")
    high = emitter.events[-1].n
    again = ev.AttemptStarted(
        **ENVELOPE, epoch=2, n=high, reason="again", base=1, keep_n=0, high_n=high
    )
    later = ev.CustomEmitted(**ENVELOPE, epoch=2, n=high + 1, name="", payload="1")
    records = [*emitter.events, again, emitter.events[-1], later]
    events = shown(records, "messages-tuple", "values", "custom")
    at = events.index(("metadata", {"run_id": TURN, "attempt": 2}))
    assert events[at + 1][1][0] == {
        "content": "",
        "additional_kwargs": {},
        "response_metadata": {},
        "type": "remove",
        "name": None,
        "id": "m",
    }
    # the late record of the lost attempt shows nothing
    assert events[at + 2 :] == [("state", ""), ("custom", 1)]


def test_ends(emitter: MemoryEmitter) -> None:
    modes = ("values", "updates")
    last = emitter.events[-1].n
    end = {**ENVELOPE, "epoch": 1, "n": last + 1}
    asked = [ev.Interrupt(id="i", payload='{"q":1}')]
    completed = shown([*emitter.events, ev.TurnCompleted(**end)], *modes)
    assert completed[1:] == [("state", ""), ("end", {"run_id": TURN, "status": "success"})]
    waits = shown([*emitter.events, ev.TurnInterrupted(**end, interrupts=asked)], *modes)
    assert waits[1] == ("updates", {"__interrupt__": [{"value": {"q": 1}, "id": "i"}]})
    assert waits[-1][1]["status"] == "interrupted"
    failed = shown([*emitter.events, ev.TurnFailed(**end, code="boom", message="why")], *modes)
    assert failed[1:] == [("error", {"error": "boom", "message": "why"})]
    cancelled = shown([*emitter.events, ev.TurnCancelled(**end, cause="user")], *modes)
    assert cancelled[-1] == ("end", {"run_id": TURN, "status": "interrupted"})


def test_nothing_is_shown_after_the_end_nor_of_other_runs(emitter: MemoryEmitter) -> None:
    last = emitter.events[-1].n
    end = ev.TurnCompleted(**ENVELOPE, epoch=1, n=last + 1)
    other = MemoryEmitter.started(turn_id="00000000-0000-7000-8000-000000000001", epoch=2)
    message(other, "t9", "not yours")
    before = shown([*emitter.events, end], "messages-tuple", "updates")
    after = shown([*emitter.events, end, end, *other.events], "messages-tuple", "updates")
    assert after == before


def test_a_run_that_the_log_lost_ends_by_its_outcome() -> None:
    projection = RunProjection(TURN, frozenset({"values"}))
    asked = [ev.Interrupt(id="i", payload="1")]
    items = projection.lost(Outcome(status="interrupted", interrupts=asked))
    assert items == [
        StateWanted(asked='[{"value":1,"id":"i"}]', final=True),
        RunEvent("end", {"run_id": TURN, "status": "interrupted"}),
    ]
    failed = RunProjection(TURN, MODES).lost(Outcome(status="failed", code="x", message="y"))
    assert failed == [RunEvent("error", {"error": "x", "message": "y"})]


def test_states_for_the_modes() -> None:
    state = {
        "values": {"a": 1},
        "metadata": {"source": "loop"},
        "next": [],
        "tasks": [],
        "created_at": "now",
        "checkpoint": {"checkpoint_id": "c"},
        "parent_checkpoint": None,
    }
    modes = frozenset({"values", "checkpoints", "debug"})
    names = [event.event for event in state_events(StateWanted("c", 1), modes, state)]
    assert names == ["values", "checkpoints", "debug"]
    # an input checkpoint holds values that are not applied yet
    unapplied = StateWanted("c", -1, values=False)
    names = [event.event for event in state_events(unapplied, modes, state)]
    assert names == ["checkpoints", "debug"]
    nested = StateWanted("c", 1, ns="a:1")
    names = [event.event for event in state_events(nested, modes, state)]
    assert names == ["values|a:1", "checkpoints|a:1", "debug|a:1"]
    asked = StateWanted(asked='[{"value":2,"id":"i"}]', final=True)
    (values,) = state_events(asked, modes, state)
    assert plain(values.data) == {"a": 1, "__interrupt__": [{"value": 2, "id": "i"}]}


@pytest.mark.parametrize(
    ("record", "status"),
    [
        (ev.TurnEnded(**ENVELOPE, epoch=1, n=1, outcome="cancelled"), "interrupted"),
        (ev.TurnEnded(**ENVELOPE, epoch=1, n=1, outcome="failed", code="expired"), "timeout"),
        (ev.TurnEnded(**ENVELOPE, epoch=1, n=1, outcome="rejected", code="busy"), "error"),
        (ev.TurnRejected(**ENVELOPE, epoch=1, n=1, reason="stale"), "error"),
    ],
)
def test_statuses(record: Any, status: str) -> None:
    found, error = ending(record)
    assert found == status
    assert (error is not None) == (status != "interrupted")
    assert run_status("running") == "running"


def test_plain_events(emitter: MemoryEmitter) -> None:
    message(emitter, "t1", "hello")
    emitter.emit(ev.InputRequested, path="t1", interrupt_id="i", payload='"sure?"')
    last = emitter.events[-1].n
    high = last
    again = ev.AttemptStarted(
        **ENVELOPE, epoch=2, n=high, reason="again", base=1, keep_n=0, high_n=high
    )
    end = ev.TurnFailed(**ENVELOPE, epoch=2, n=high + 1, code="boom", message="why", text="he")
    fold, projection = ThreadFold(), SimpleProjection()
    closed = ev.InputResolved(**ENVELOPE, epoch=0, n=0, actor="ann", interrupt_id="i", rev=1)
    out = [
        (name, plain(data))
        for record in (*emitter.events, closed, closed, again, end)
        for name, data in projection.apply(fold.apply(record))
    ]
    run = {"run_id": TURN}
    assert out == [
        ("started", run | {"attempt": 1}),
        ("token", run | {"message_id": "m", "text": "hello"}),
        ("message", run | {"message_id": "m", "role": "assistant", "text": "hello"}),
        ("question", run | {"id": "i", "value": "sure?"}),
        ("resolved", run | {"id": "i", "actor": "ann"}),
        ("rewind", run | {"message_ids": ["m"], "tool_call_ids": []}),
        ("started", run | {"attempt": 2}),
        (
            "end",
            run | {"status": "error", "text": "he", "error": {"code": "boom", "message": "why"}},
        ),
    ]


def nested_message(emitter: MemoryEmitter, message_id: str, text: str) -> None:
    """What a graph inside of the task t1 says."""
    emitter.emit(ev.StepStarted, path="t1|t2", step=1, node="inner", task_id="t2", ns="model:t1")
    message(emitter, "t1|t2", text, message_id)


END = {"path": "t1", "step": 1, "node": "model", "task_id": "t1"}


def test_a_message_has_langgraphs_metadata_and_the_runs(emitter: MemoryEmitter) -> None:
    told = '{"langgraph_path":["__pregel_pull","model"],"tags":["a"],"thread_id":"other"}'
    emitter.emit(ev.MessageStarted, path="t1", message_id="m", metadata=told)
    emitter.tokens(path="t1", message_id="m", block=0, kind="text", text="x")
    about = shown(emitter.events, "messages-tuple")[1][1][1]
    assert about == {"langgraph_path": ["__pregel_pull", "model"], "tags": ["a"]} | {
        "thread_id": "other",
        "run_id": TURN,
    }


def test_a_message_that_no_model_streamed_comes_whole(emitter: MemoryEmitter) -> None:
    emitter.emit(ev.MessageStarted, path="t1", message_id="m", whole=True)
    emitter.tokens(path="t1", message_id="m", block=0, kind="text", text="x")
    extra = '{"response_metadata":{"a":1},"additional_kwargs":{"sure":true}}'
    emitter.emit(ev.MessageFinished, path="t1", message_id="m", extra=extra)
    ((_, (said, _)),) = shown(emitter.events, "messages-tuple")[1:]
    assert (said["type"], said["content"], said["response_metadata"]) == ("ai", "x", {"a": 1})
    assert said["additional_kwargs"] == {"sure": True}


def test_a_tools_message_is_shown_once_with_the_states_id(emitter: MemoryEmitter) -> None:
    tool = {"path": "t1", "tool_call_id": "call_0", "name": "f"}
    emitter.emit(ev.ToolFinished, **tool, output="by an earlier version")
    emitter.emit(ev.ToolFinished, **tool, output="native", message_id="s1")
    emitter.emit(ev.ToolFinished, **tool, output="brought", apart=True)
    about = {"path": "t1", "message_id": "s2"}
    emitter.emit(ev.MessageStarted, **about, role="tool", tool_call_id="call_0", whole=True)
    emitter.tokens(**about, block=0, kind="text", text="brought")
    emitter.emit(ev.MessageFinished, **about, extra='{"artifact":[1],"status":"success"}')
    said = [data[0] for _, data in shown(emitter.events, "messages-tuple")[1:]]
    assert [(one["id"], one["content"]) for one in said] == [
        ("tool-call_0", "by an earlier version"),
        ("s1", "native"),
        ("s2", "brought"),
    ]
    assert (said[2]["tool_call_id"], said[2]["artifact"]) == ("call_0", [1])


def test_what_a_node_returns_from_a_graph_inside_is_shown_at_the_node(
    emitter: MemoryEmitter,
) -> None:
    nested_message(emitter, "m1", "first")
    emitter.emit(ev.MessageStarted, path="t1", message_id="m2", whole=True)
    emitter.emit(ev.MessageFinished, path="t1", message_id="m2")
    update = '{"messages":[{"id":"m1","content":"first","name":"ann"},{"id":"m2","content":""}]}'
    emitter.emit(ev.StepFinished, **END, update=update, messages=["m1"])
    at_root = shown(emitter.events, "messages-tuple")[1:]
    assert [name for name, _ in at_root] == ["messages", "messages"]
    assert [data[0]["id"] for _, data in at_root] == ["m1", "m2"]
    assert (at_root[0][1][0]["name"], at_root[0][1][1]["langgraph_node"]) == ("ann", "model")
    inside = shown(emitter.events, "messages-tuple", subgraphs=True)[1:]
    assert [name for name, _ in inside] == ["messages|model:t1"] * 2 + ["messages"]


def test_a_node_that_asks_has_its_question_for_an_update(emitter: MemoryEmitter) -> None:
    asked = '[{"value":1,"id":"i","response_schema":null}]'
    emitter.emit(ev.StepFinished, **END, interrupts=asked)
    over = {**ENVELOPE, "epoch": 1, "n": emitter.events[-1].n + 1}
    end = ev.TurnInterrupted(**over, interrupts=[ev.Interrupt(id="i", payload="1")])
    question = [{"value": 1, "id": "i", "response_schema": None}]
    records = [*emitter.events, end]
    assert shown(records, "updates")[1:-1] == [("updates", {"__interrupt__": question})]
    ((_, task),) = shown(records, "tasks")[2:-1]
    assert (task["result"], task["interrupts"]) == ({}, question)
    # values are shown once, where it asks
    assert [name for name, _ in shown(records, "values")[1:]] == ["state", "end"]


def test_a_task_tells_its_input_and_what_triggered_it(emitter: MemoryEmitter) -> None:
    told = {"input": '{"q":1}', "triggers": ["branch:to:b"], "metadata": '{"mine":1}'}
    emitter.emit(ev.StepStarted, path="t2", step=1, node="b", task_id="t2", **told)
    emitter.emit(
        ev.StepFinished,
        path="t2",
        step=1,
        node="b",
        task_id="t2",
        update='"value"',
        result='{"__return__":"value"}',
    )
    began, ended = (data for _, data in shown(emitter.events, "tasks")[2:])
    assert (began["input"], began["triggers"], began["metadata"]) == (
        {"q": 1},
        ["branch:to:b"],
        {"mine": 1},
    )
    assert ended["result"] == {"__return__": "value"}
    assert shown(emitter.events, "updates")[1:] == [("updates", {"b": "value"})]


def test_values_follow_what_steps_wrote() -> None:
    emitter = MemoryEmitter.started(turn_id=TURN)
    saved = {"path": "", "parent_id": ""}
    emitter.emit(ev.CheckpointSaved, **saved, checkpoint_id="c0", source="input")
    emitter.emit(ev.CheckpointSaved, **saved, checkpoint_id="c1", step=0)
    for number, update in ((2, "null"), (3, '{"a":1}')):
        task = {"path": f"t{number}", "step": number, "node": "n", "task_id": f"t{number}"}
        emitter.emit(ev.StepStarted, **task)
        emitter.emit(ev.StepFinished, **task, update=update)
        emitter.emit(ev.CheckpointSaved, **saved, checkpoint_id=f"c{number}", step=number)
    inner = {"path": "t4|", "ns": "n:t4", "checkpoint_id": "n0"}
    emitter.emit(ev.CheckpointSaved, **inner, source="input")
    emitter.emit(ev.CheckpointSaved, **{**inner, "checkpoint_id": "n1"})
    assert shown(emitter.events, "values")[1:] == [("state", "c1"), ("state", "c3")]
    every = [("state", f"c{number}") for number in range(4)]
    assert shown(emitter.events, "checkpoints")[1:] == every
    nested = shown(emitter.events, "values", subgraphs=True)[1:]
    assert nested == [("state", "c1"), ("state", "c3"), ("state", "n1")]


def test_the_last_values_are_not_shown_twice() -> None:
    emitter = MemoryEmitter.started(turn_id=TURN)
    saved = {"path": "", "parent_id": ""}
    emitter.emit(ev.CheckpointSaved, **saved, checkpoint_id="c0", source="input")
    emitter.emit(ev.CheckpointSaved, **saved, checkpoint_id="c1", step=0)
    end = {**ENVELOPE, "epoch": 1, "n": emitter.events[-1].n + 1}
    for terminal, state_was_there, final in (
        (ev.TurnCompleted(**end), True, False),
        (ev.TurnCompleted(**end), False, True),
        (ev.TurnCancelled(**end, cause="user"), True, True),
    ):
        fold, projection = ThreadFold(), RunProjection(TURN, frozenset({"values"}))
        wanted = []
        for record in (*emitter.events, terminal):
            for item in projection.apply(fold.apply(record)):
                if isinstance(item, StateWanted):
                    wanted.append(item)
                    if state_was_there:
                        projection.shown = item.checkpoint_id
        assert [one.final for one in wanted] == [False] + [True] * final


def test_a_run_that_answers_shows_what_it_goes_on_from(emitter: MemoryEmitter) -> None:
    fold = ThreadFold()
    projection = RunProjection(TURN, frozenset({"values"}), resumed=True)
    items = [item for record in emitter.events for item in projection.apply(fold.apply(record))]
    assert items[1:] == [StateWanted(step=0, before=True)]


def test_a_large_input_or_update_is_read_from_the_state() -> None:
    emitter = MemoryEmitter.started(turn_id=TURN)
    emitter.emit(ev.CheckpointSaved, path="", checkpoint_id="c1", step=0)
    emitter.emit(ev.StepStarted, path="t1", step=1, node="n", task_id="t1", triggers=["a"])
    emitter.emit(ev.StepFinished, path="t1", step=1, node="n", task_id="t1")
    fold, projection = ThreadFold(), RunProjection(TURN, frozenset({"updates", "tasks"}))
    items = [item for record in emitter.events for item in projection.apply(fold.apply(record))]
    given, began, result, update, ended = items[1:]
    assert isinstance(given, TaskWanted)
    assert isinstance(result, TaskWanted)
    assert (given.checkpoint_id, given.node, result.task_id) == ("c1", "n", "t1")
    assert isinstance(began, RunEvent)
    assert given.about is began.data
    assert isinstance(update, RunEvent)
    assert result.update is update.data
    assert isinstance(ended, RunEvent)
    assert result.about is ended.data
    assert not given.sent
    emitter.emit(
        ev.StepStarted, path="t2", step=1, node="n", task_id="t2", triggers=["__pregel_push"]
    )
    sent, *_ = projection.apply(fold.apply(emitter.events[-1]))
    assert isinstance(sent, TaskWanted)
    assert sent.sent, "what a Send gives is no part of the state"
