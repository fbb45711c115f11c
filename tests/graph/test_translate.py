"""Stream items in, events out: no graph runs here."""

from __future__ import annotations

from typing import Any

from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, ToolMessage

from turnstream.connectors.memory import MemoryEmitter
from turnstream.graph.translate import UPDATE_BYTES_MAX, Translator, Written
from turnstream.schemas.events import (
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
)
from turnstream.schemas.transcript import text_sha256


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
    desk.translator.tool_paths["c1"] = "t1"
    start = {"event": "tool-started", "tool_call_id": "c1", "tool_name": "look"}
    desk.item("tools", {**start, "input": {"q": 1, "runtime": object()}})
    desk.item("tools", {"event": "tool-output-delta", "tool_call_id": "c1", "delta": {"at": 1}})
    output = ToolMessage("found", tool_call_id="c1")
    desk.item("tools", {"event": "tool-finished", "tool_call_id": "c1", "output": output})
    desk.message(output)
    assert desk.all(ToolStarted)[0].args == '{"q":1}'
    assert desk.all(ToolProgressed)[0].data == '{"at":1}'
    assert (desk.all(ToolFinished)[0].name, desk.all(ToolFinished)[0].output) == ("look", "found")
    assert desk.all(MessageStarted) == []


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
