"""Stream items in, events out: no graph runs here."""

from __future__ import annotations

import json
from typing import Any

import pytest
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, ToolMessage
from langgraph.runtime import Runtime
from langgraph.store.memory import InMemoryStore

from turnstream.connectors.memory.emitter import MemoryEmitter
from turnstream.graph.langgraph.stream.translate import Translator, Written
from turnstream.graph.langgraph.stream.translate_tasks import UPDATE_BYTES_MAX
from turnstream.schemas.records.events import (
    CustomEmitted,
    InputRequested,
    Keep,
    MessageFinished,
    MessageStarted,
    StepFinished,
    StepStarted,
    TaskRetried,
    TokensEmitted,
    ToolFailed,
    ToolFinished,
    ToolProgressed,
    ToolStarted,
    Usage,
)
from turnstream.schemas.text import text_sha256


class Desk:
    def __init__(self, finished: tuple[str, ...] = (), stored: tuple[str, ...] = ()) -> None:
        self.log = MemoryEmitter()
        self.ended: list[str] = []
        self.translator = Translator(
            self.log,
            finished=lambda task: task in finished,
            stored=lambda message: message in stored,
            step_of=lambda _: 0,
            ended=self.ended.append,
        )

    def item(self, kind: str, data: Any, *ns: str) -> None:
        self.translator.feed({"type": kind, "ns": ns, "data": data})

    def begin(self, task: str, name: str = "node", *ns: str) -> None:
        self.item("tasks", {"id": task, "name": name, "input": {}, "triggers": []}, *ns)

    def end(self, task: str, name: str = "node", *ns: str, **rest: Any) -> None:
        data = {"id": task, "name": name, "error": None, "result": {}, "interrupts": [], **rest}
        if data["interrupts"]:
            self.item("updates", {"__interrupt__": data["interrupts"]}, *ns)
        elif not data["error"]:
            self.item("updates", {name: rest.get("update", data["result"] or None)}, *ns)
        data.pop("update", None)
        self.item("tasks", data, *ns)

    def message(self, message: Any, ns: str = "node:t1", **meta: Any) -> None:
        self.item("messages", (message, {"langgraph_checkpoint_ns": ns, **meta}))

    def kinds(self) -> list[str]:
        return [type(event).__name__ for event in self.log.events]

    def all(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.log.events if isinstance(event, kind)]


def chunk(text: Any = "", **rest: Any) -> AIMessageChunk:
    return AIMessageChunk(content=text, id="m", **rest)


def test_a_task_begins_and_ends() -> None:
    desk = Desk()
    desk.begin("t1")
    desk.end("t1", result={"log": ["x"]})
    (started,), (finished,) = desk.all(StepStarted), desk.all(StepFinished)
    assert (started.path, started.node, started.step) == ("t1", "node", 1)
    assert (finished.update, finished.error) == ('{"log":["x"]}', "")
    assert desk.ended == ["t1"]


def test_a_task_that_is_skipped_is_not_announced() -> None:
    desk = Desk(finished=("t1",))
    desk.begin("t1")
    desk.begin("t2")
    assert [event.task_id for event in desk.all(StepStarted)] == ["t2"]


def test_a_large_update_is_left_out() -> None:
    desk = Desk()
    desk.begin("t1")
    desk.end("t1", result={"log": "x" * UPDATE_BYTES_MAX})
    assert desk.all(StepFinished)[0].update == ""


def test_a_nested_tasks_path_holds_its_parents() -> None:
    desk = Desk()
    desk.begin("t1", "outer")
    desk.begin("t2", "inner", "outer:t1")
    assert desk.all(StepStarted)[1].path == "t1|t2"


def test_a_subgraph_with_a_life_of_its_own_lies_in_its_task() -> None:
    desk = Desk()
    desk.begin("t1", "outer")
    desk.begin("t2", "inner", "outer")
    assert desk.all(StepStarted)[1].path == "t1|t2"
    assert desk.translator.path_of("outer|inner:t2") == "t1|t2"
    assert desk.translator.path_of("gone") == "gone"


def test_a_streamed_answer() -> None:
    desk = Desk()
    desk.message(chunk("he"), ls_model_name="small")
    desk.message(chunk("llo"))
    desk.message(
        chunk(
            usage_metadata={
                "input_tokens": 3,
                "output_tokens": 2,
                "total_tokens": 5,
                "output_token_details": {"reasoning": 1},
            },
            response_metadata={"finish_reason": "stop"},
        )
    )
    desk.message(chunk(chunk_position="last"))
    assert desk.kinds() == ["MessageStarted", "TokensEmitted", "TokensEmitted", "MessageFinished"]
    (finished,) = desk.all(MessageFinished)
    assert finished.finish_reason == "stop"
    assert finished.sha256 == text_sha256("hello")
    usage = finished.usage
    assert (usage.model, usage.input_tokens, usage.output_tokens) == ("small", 3, 2)
    assert usage.reasoning_tokens == 1
    assert {event.path for event in desk.log.events} == {"t1"}


def test_reasoning_text_and_calls_are_blocks_of_their_own() -> None:
    desk = Desk()
    desk.message(chunk(additional_kwargs={"reasoning_content": "hm"}))
    desk.message(chunk([{"type": "text", "text": "so", "index": 1}]))
    call = {"name": "look", "args": "", "id": "c1", "index": 0, "type": "tool_call_chunk"}
    desk.message(chunk(tool_call_chunks=[call]))
    desk.message(chunk(tool_call_chunks=[{**call, "name": None, "id": None, "args": '{"q":1}'}]))
    said = [(e.block, e.kind, e.text, e.tool_call_id, e.tool_name) for e in desk.all(TokensEmitted)]
    assert said == [
        (0, "reasoning", "hm", "", ""),
        (1, "text", "so", "", ""),
        (2, "tool_args", "", "c1", "look"),
        (2, "tool_args", '{"q":1}', "", ""),
    ]


@pytest.mark.parametrize("index", [None, 0])
def test_calls_of_one_index_are_calls_of_their_own(index: int | None) -> None:
    desk = Desk()
    for number in (1, 2):
        call = {"name": "look", "args": "", "id": f"a{number}", "index": index}
        desk.message(chunk(tool_call_chunks=[{**call, "type": "tool_call_chunk"}]))
        more = {**call, "name": None, "id": None, "args": f'{{"q":{number}}}'}
        desk.message(chunk(tool_call_chunks=[{**more, "type": "tool_call_chunk"}]))
    said = [(e.block, e.text, e.tool_call_id, e.tool_name) for e in desk.all(TokensEmitted)]
    assert said == [
        (0, "", "a1", "look"),
        (0, '{"q":1}', "", ""),
        (1, "", "a2", "look"),
        (1, '{"q":2}', "", ""),
    ]


def test_calls_in_turn_go_by_their_index() -> None:
    desk = Desk()
    pieces = [(0, "a1", "look", ""), (1, "a2", "look", ""), (0, "", "", "x"), (1, "", "", "y")]
    for index, call_id, name, args in pieces:
        piece = {"name": name, "args": args, "id": call_id, "index": index}
        desk.message(chunk(tool_call_chunks=[{**piece, "type": "tool_call_chunk"}]))
    said = [(e.block, e.text) for e in desk.all(TokensEmitted)]
    assert said == [(0, ""), (1, ""), (0, "x"), (1, "y")]


def test_a_new_id_without_a_name_goes_on_with_the_call() -> None:
    desk = Desk()
    for call_id, name, args in (("x1", "look", ""), ("x2", "", '{"q"'), ("x3", "", ":1}")):
        piece = {"name": name, "args": args, "id": call_id, "index": 0}
        desk.message(chunk(tool_call_chunks=[{**piece, "type": "tool_call_chunk"}]))
    assert {event.block for event in desk.all(TokensEmitted)} == {0}


def test_a_message_carries_langgraphs_metadata_once() -> None:
    desk = Desk()
    about = {"langgraph_node": "node", "langgraph_triggers": ["branch:to:node"], "tags": ["main"]}
    desk.message(chunk("he"), ls_model_name="small", **about)
    desk.message(chunk("llo"), ls_model_name="small", **about)
    (started,) = desk.all(MessageStarted)
    told = json.loads(started.metadata)
    assert told == {"langgraph_checkpoint_ns": "node:t1", "ls_model_name": "small", **about}


def test_large_metadata_of_the_run_is_left_out() -> None:
    desk = Desk()
    desk.message(chunk("he"), langgraph_node="node", mine="x" * 20_000)
    told = json.loads(desk.all(MessageStarted)[0].metadata)
    assert told == {"langgraph_checkpoint_ns": "node:t1", "langgraph_node": "node"}


def test_an_end_tells_what_the_blocks_do_not() -> None:
    desk = Desk()
    desk.message(chunk("a", response_metadata={"model_provider": "x"}))
    desk.message(chunk("b", response_metadata={"model_provider": "x", "finish_reason": "stop"}))
    desk.message(chunk(chunk_position="last"))
    (finished,) = desk.all(MessageFinished)
    assert finished.finish_reason == "stop"
    assert json.loads(finished.extra) == {
        "response_metadata": {"model_provider": "x", "finish_reason": "stop"},
        "usage_metadata": None,
        "additional_kwargs": {},
    }


def test_a_call_that_no_server_counted_is_estimated() -> None:
    desk = Desk()
    desk.translator.messages.prompts["node:t1"] = 12
    desk.message(chunk("x" * 40), ls_model_name="small", ls_model_type="chat")
    desk.message(chunk(chunk_position="last"))
    desk.message(AIMessage("a node's own words", id="own"))
    modelled, own = desk.all(MessageFinished)
    assert modelled.usage == Usage(model="small", input_tokens=12, output_tokens=10, estimated=True)
    assert own.usage is None


def test_a_function_runs_in_the_graph_of_its_caller() -> None:
    desk = Desk()
    desk.begin("e1", "essay")
    desk.begin("d1", "draft")
    path = ["__pregel_push", ["__pregel_pull", "essay"], 0, True]
    about = {"langgraph_path": path, "langgraph_node": "draft"}
    desk.message(chunk("text"), "essay:e1|draft:d1", **about)
    desk.item("custom", Written("essay:e1|draft:d1", 1), "essay:e1")
    desk.end("d1", "draft", result={"__return__": "text"}, update="text")
    assert {event.path for event in desk.log.events[1:]} == {"d1"}
    (finished,) = desk.all(StepFinished)
    assert (finished.update, finished.result) == ('"text"', '{"__return__":"text"}')


def test_a_node_names_what_graphs_inside_of_it_said() -> None:
    desk = Desk()
    desk.begin("t1", "outer")
    desk.begin("t2", "inner", "outer:t1")
    desk.message(chunk("deep"), "outer:t1|inner:t2")
    desk.end("t2", "inner", "outer:t1", result={"messages": [AIMessage("deep", id="m")]})
    before, mine = HumanMessage("before", id="h"), AIMessage("deep", id="m")
    desk.end("t1", "outer", result={"messages": [before, mine]})
    assert [event.messages for event in desk.all(StepFinished)] == [[], ["m"]]


def test_a_node_that_stops_with_a_question_has_no_update() -> None:
    desk = Desk()
    desk.begin("t1")
    desk.end("t1", interrupts=[{"id": "i" * 32, "value": "sure?", "response_schema": None}])
    (finished,) = desk.all(StepFinished)
    assert (finished.update, finished.result) == ("", "")
    assert json.loads(finished.interrupts)[0]["value"] == "sure?"


def test_a_step_tells_its_input_and_triggers_unless_they_are_large() -> None:
    desk = Desk()
    for task, given in (("t1", {"q": 1}), ("t2", {"q": "x" * 20_000})):
        data = {"id": task, "name": "node", "input": given, "triggers": ("branch:to:node",)}
        desk.item("tasks", {**data, "metadata": {"mine": 1}})
    small, large = desk.all(StepStarted)
    assert (small.input, small.triggers, small.metadata) == (
        '{"q":1}',
        ["branch:to:node"],
        '{"mine":1}',
    )
    assert large.input == ""


def test_a_task_that_ends_closes_its_messages() -> None:
    desk = Desk()
    desk.begin("t1")
    desk.message(chunk("cut"))
    desk.end("t1")
    assert desk.kinds()[-2:] == ["MessageFinished", "StepFinished"]


def test_whole_messages_have_their_roles() -> None:
    desk = Desk()
    desk.message(AIMessage("hello", id="a"))
    desk.message(HumanMessage("me", id="h"))
    desk.message(ToolMessage("out", tool_call_id="c", id="t"))
    roles = [(event.message_id, event.role) for event in desk.all(MessageStarted)]
    assert roles == [("a", "assistant"), ("h", "user"), ("t", "tool")]
    assert [event.text for event in desk.all(TokensEmitted)] == ["hello", "me", "out"]


def test_a_tool_says_it_once() -> None:
    desk = Desk()
    desk.begin("t1")
    desk.translator.tools.paths[(), "c1"] = "t1"
    start = {"event": "tool-started", "tool_call_id": "c1", "tool_name": "look"}
    desk.item("tools", {**start, "input": {"q": 1, "runtime": Runtime()}})
    desk.item("tools", {"event": "tool-output-delta", "tool_call_id": "c1", "delta": {"at": 1}})
    output = ToolMessage("found", tool_call_id="c1")
    desk.item("tools", {"event": "tool-finished", "tool_call_id": "c1", "output": output})
    assert desk.all(ToolStarted)[0].args == '{"q":1}'
    assert desk.all(ToolProgressed)[0].data == '{"at":1}'
    assert (desk.all(ToolFinished)[0].name, desk.all(ToolFinished)[0].output) == ("look", "found")
    assert desk.all(ToolFinished)[0].apart


def test_only_injected_arguments_are_left_out() -> None:
    desk = Desk()
    start = {"event": "tool-started", "tool_call_id": "c", "tool_name": "weather"}
    given = {"city": "Salem", "state": "Oregon", "store": "corner", "runtime": "long"}
    desk.item(
        "tools", {**start, "input": {**given, "injected": Runtime(), "kept": InMemoryStore()}}
    )
    assert json.loads(desk.all(ToolStarted)[0].args) == given


def test_a_tools_message_has_the_states_id_and_names_its_call() -> None:
    desk = Desk()
    desk.begin("t1")
    for number in (1, 2):  # models of some servers call every call `call_0`
        start = {"event": "tool-started", "tool_call_id": "call_0", "tool_name": "look"}
        desk.item("tools", start)
        output = ToolMessage("found", tool_call_id="call_0", id=f"m{number}", artifact={"at": 1})
        desk.item("tools", {"event": "tool-finished", "tool_call_id": "call_0", "output": output})
        desk.message(output)
    said = [
        (event.message_id, event.role, event.tool_call_id) for event in desk.all(MessageStarted)
    ]
    assert said == [("m1", "tool", "call_0"), ("m2", "tool", "call_0")]
    assert json.loads(desk.all(MessageFinished)[0].extra)["artifact"] == {"at": 1}


def test_a_tool_that_fails() -> None:
    desk = Desk()
    desk.item("tools", {"event": "tool-started", "tool_call_id": "c", "tool_name": "look"})
    desk.item("tools", {"event": "tool-error", "tool_call_id": "c", "message": "no"})
    (failed,) = desk.all(ToolFailed)
    assert (failed.name, failed.code, failed.message) == ("look", "tool_error", "Error")


def test_a_question_is_asked_once_though_every_task_around_repeats_it() -> None:
    desk = Desk()
    asked = [{"id": "i" * 32, "value": {"q": 1}}]
    desk.begin("t1", "outer")
    desk.begin("t2", "inner", "outer:t1")
    desk.end("t2", "inner", "outer:t1", interrupts=asked)
    desk.end("t1", "outer", interrupts=asked)
    (said,) = desk.all(InputRequested)
    assert (said.path, said.ns, said.payload) == ("t1|t2", "outer:t1", '{"q":1}')


def test_a_writers_item_names_its_task() -> None:
    desk = Desk()
    desk.begin("t1", "a")
    desk.begin("t2", "b")
    desk.item("custom", Written("b:t2", {"type": "note", "x": 1}))
    desk.item("custom", "unsigned")
    first, second = desk.all(CustomEmitted)
    assert (first.path, first.name, first.payload) == ("t2", "note", '{"type":"note","x":1}')
    assert (second.path, second.payload) == ("", '"unsigned"')


def test_a_retry_announces_the_task_again_and_forgets_what_it_said() -> None:
    desk = Desk()
    desk.begin("t1", "outer")
    desk.begin("t2", "inner", "outer:t1")
    desk.message(chunk("half"), "outer:t1|inner:t2")
    desk.translator.retried("t1", [Keep("t1|t9", 3)], 2, "Error: x")
    (retried,) = desk.all(TaskRetried)
    assert (retried.path, retried.attempt, retried.keep) == ("t1", 2, [Keep("t1|t9", 3)])
    assert [event.path for event in desk.all(StepStarted)] == ["t1", "t1|t2", "t1"]
    desk.message(chunk("whole"), "outer:t1|inner:t2")
    assert len(desk.all(MessageStarted)) == 2


def test_what_has_no_json_form_is_its_text() -> None:
    desk = Desk()
    circle: dict[str, Any] = {"x": 1}
    circle["self"] = circle
    for odd in (object(), {1: "a", (2, 3): "b"}, "\ud800", circle, {"at": 1 << 80}):
        desk.item("custom", odd)
    assert len(desk.all(CustomEmitted)) == 5


def test_other_modes_are_skipped() -> None:
    desk = Desk()
    desk.item("updates", {"node": {}})
    desk.item("checkpoints", {})
    assert desk.log.events == []


def test_what_a_nested_graph_said_before_a_crash_is_not_said_again_by_the_one_around_it() -> None:
    """With no inner step left to run, LangGraph hands its messages out as new ones."""
    desk = Desk(stored=("before",))
    desk.begin("t1")
    desk.message(AIMessage("said before", id="before"))
    desk.message(AIMessage("new", id="after"))
    assert [event.message_id for event in desk.all(MessageStarted)] == ["after"]
