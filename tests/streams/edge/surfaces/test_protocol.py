"""Changes to protocol events: what the stock SDKs need, fact by fact."""

from __future__ import annotations

import json

import msgspec
import pytest

from turnstream.schemas.fold.fold import ThreadFold
from turnstream.schemas.records import events as ev
from turnstream.streams.edge.deliver.filters import Filter
from turnstream.streams.edge.follow.cursor import RECORD_EVENTS_MAX, Cursor
from turnstream.streams.edge.surfaces.protocol import Projection


class Thread:
    """Says events of turns of one thread and gives what clients see, as parsed JSON."""

    def __init__(self) -> None:
        self.fold = ThreadFold()
        self.projection = Projection(1)
        self.offset = -1
        self.epoch = 0
        self.n = 0

    def close(self, interrupt_id, *, actor="ann", rev=1, turn="U"):
        """Say that a question is not open any more."""
        n = self.n
        said = self.say(
            ev.InputResolved,
            turn=turn,
            epoch=0,
            n=0,
            interrupt_id=interrupt_id,
            rev=rev,
            actor=actor,
        )
        self.n = n
        return said

    def say(self, event_type, /, turn="T", path="", epoch=None, n=None, **fields):
        self.offset += 1
        if event_type is ev.AttemptStarted:
            self.epoch += 1
            fields = {"reason": "first", "base": 0, "keep_n": 0, "high_n": 0} | fields
            self.n = fields["high_n"]
        else:
            self.n += 1
        record = event_type(
            event_id=f"{turn}-{self.epoch}-{self.n}",
            tenant="acme",
            thread_id="a",
            turn_id=turn,
            epoch=self.epoch if epoch is None else epoch,
            n=self.n if n is None else n,
            path=path,
            at=5_000_000,
            **fields,
        )
        events = self.projection.apply(self.fold.apply(record, self.offset))
        return [msgspec.json.decode(event.body) for event in events]

    def tokens(self, text, message_id="m", block=0, kind="text", **fields):
        return self.say(
            ev.TokensEmitted, message_id=message_id, block=block, kind=kind, text=text, **fields
        )


@pytest.fixture
def thread():
    made = Thread()
    made.say(ev.AttemptStarted, graph="agent")
    return made


def brief(events):
    return [
        (event["method"], event["params"]["data"].get("event") if event["params"]["data"] else None)
        for event in events
    ]


def test_the_first_event_says_that_the_run_started():
    (event,) = Thread().say(ev.AttemptStarted, graph="agent")
    assert event == {
        "type": "event",
        "event_id": "synth:T:T-1-0:0",
        "seq": Cursor(1, 0, 0).seq,
        "method": "lifecycle",
        "params": {
            "namespace": [],
            "timestamp": 5000,
            "data": {"event": "running", "graph_name": "agent"},
        },
    }


def test_a_message_in_blocks(thread):
    said = thread.say(ev.MessageStarted, message_id="m")
    said += thread.tokens("thought", kind="reasoning")
    said += thread.tokens("he", block=1)
    said += thread.tokens("llo", block=1)
    usage = ev.Usage(model="x", input_tokens=3, output_tokens=2, cached_tokens=1)
    said += thread.say(ev.MessageFinished, message_id="m", usage=usage)
    assert {event["params"]["data"]["id"] for event in said} == {"m"}
    assert [event["params"]["data"]["event"] for event in said] == [
        "message-start",
        "content-block-start",
        "content-block-delta",
        "content-block-start",
        "content-block-delta",
        "content-block-delta",
        "content-block-finish",
        "content-block-finish",
        "message-finish",
    ]
    assert said[2]["params"]["data"]["delta"] == {
        "type": "reasoning-delta",
        "reasoning": "thought",
    }
    assert said[-2]["params"]["data"]["content"] == {"type": "text", "text": "hello"}
    assert said[-1]["params"]["data"]["usage"]["total_tokens"] == 5
    assert [event["seq"] for event in said] == sorted({event["seq"] for event in said})


def test_arguments_of_a_tool_call(thread):
    said = thread.tokens('{"a"', kind="tool_args", tool_call_id="c", tool_name="add")
    said += thread.tokens(": 1}", kind="tool_args")
    said += thread.say(ev.MessageFinished, message_id="m")
    data = [event["params"]["data"] for event in said]
    assert data[1]["content"] == {"type": "tool_call_chunk", "id": "c", "name": "add", "args": ""}
    assert data[2]["delta"] == {"type": "tool-call-delta", "args": '{"a"'}
    assert data[-2]["content"] == {"type": "tool_call", "id": "c", "name": "add", "args": {"a": 1}}


def test_arguments_that_are_no_json(thread):
    said = thread.tokens("{nonsense", kind="tool_args", tool_call_id="c", tool_name="add")
    said += thread.say(ev.MessageFinished, message_id="m")
    content = said[-2]["params"]["data"]["content"]
    assert content["type"] == "invalid_tool_call"
    assert content["args"] == "{nonsense"


@pytest.mark.parametrize("text", ['"quoted" \\ back', "line\nbreak\r\x00", "\u2028 한국어 🙂"])
def test_any_text_stays_on_one_line(thread, text):
    thread.tokens("x")
    thread.offset += 1
    (event,) = thread.tokens(text)
    assert event["params"]["data"]["delta"]["text"] == text
    assert "\n" not in json.dumps(event)


def test_payloads_with_line_breaks_stay_on_one_line(thread):
    record = thread.say(ev.CustomEmitted, name="n", payload='{\n  "a": "b\\nc"\n}')
    assert record[0]["params"]["data"] == {"name": "n", "payload": {"a": "b\nc"}}
    change = thread.fold.apply(
        ev.CustomEmitted(
            event_id="T-1-9", tenant="acme", thread_id="a", turn_id="T", epoch=1, n=thread.n + 1,
            name="", payload="[1,\n2]",
        ),
        99,
    )  # fmt: skip
    (event,) = thread.projection.apply(change)
    assert b"\n" not in event.body
    assert event.channel == "custom"


def test_payloads_that_are_no_json_become_text(thread):
    (event,) = thread.say(ev.CustomEmitted, name="n", payload="not json")
    assert event["params"]["data"]["payload"] == "not json"


def test_tools(thread):
    said = thread.say(ev.ToolStarted, tool_call_id="c", name="add", args='{"a": 1}')
    said += thread.say(ev.ToolProgressed, tool_call_id="c", data='"half"')
    said += thread.say(ev.ToolFinished, tool_call_id="c", name="add", output="2")
    said += thread.say(ev.ToolStarted, tool_call_id="d", name="add")
    said += thread.say(
        ev.ToolFailed, tool_call_id="d", name="add", code="timeout", message="too slow"
    )
    data = [event["params"]["data"] for event in said]
    assert [entry["event"] for entry in data] == [
        "tool-started",
        "tool-output-delta",
        "tool-finished",
        "tool-started",
        "tool-error",
    ]
    assert data[0]["input"] == {"a": 1}
    assert data[2]["output"] == "2"
    assert data[4]["message"] == "too slow"


def test_completed_closes_what_is_open_before_it(thread):
    thread.tokens("half")
    said = thread.say(ev.TurnCompleted, text="half")
    assert brief(said) == [
        ("messages", "content-block-finish"),
        ("messages", "message-finish"),
        ("values", None),
        ("lifecycle", "completed"),
    ]


def test_failed_ends_open_messages_with_an_error(thread):
    thread.tokens("half")
    said = thread.say(ev.TurnFailed, code="model_error", message="gone")
    assert brief(said) == [("messages", "error"), ("values", None), ("lifecycle", "failed")]
    assert said[-1]["params"]["data"]["error"] == "model_error: gone"


def test_cancelled_is_failed_and_keeps_what_was_said(thread):
    thread.tokens("half")
    said = thread.say(ev.TurnCancelled, cause="user")
    assert brief(said)[1] == ("messages", "message-finish")
    assert said[-1]["params"]["data"] == {
        "event": "failed",
        "graph_name": "agent",
        "error": "cancelled",
    }


def test_a_rewind_ends_the_message_and_the_new_text_has_a_new_id(thread):
    thread.say(ev.MessageStarted, message_id="m")
    thread.tokens("lost")
    said = thread.say(ev.AttemptStarted, reason="again", high_n=2)
    assert brief(said) == [("messages", "error"), ("values", None), ("lifecycle", "running")]
    assert said[0]["params"]["data"]["id"] == "m"
    again = thread.say(ev.MessageStarted, message_id="m")
    again += thread.tokens("new")
    ids = {event["params"]["data"]["id"] for event in again}
    assert len(ids) == 1
    assert ids != {"m"}


def test_the_new_id_is_the_same_at_every_replay():
    def play():
        thread = Thread()
        said = thread.say(ev.AttemptStarted)
        said += thread.tokens("lost")
        said += thread.say(ev.AttemptStarted, reason="again", high_n=1)
        said += thread.tokens("new")
        return said + thread.say(ev.TurnCompleted)

    assert play() == play()


def test_a_rewind_that_keeps_a_message_leaves_it_alone(thread):
    thread.tokens("kept", path="t1")
    thread.say(ev.MessageFinished, message_id="m", path="t1")
    said = thread.say(ev.AttemptStarted, reason="again", high_n=2, keep=[ev.Keep("t1", 2)])
    assert brief(said) == [("lifecycle", "running")]


def test_a_retried_task_is_taken_back(thread):
    thread.tokens("lost", path="t1")
    thread.say(ev.ToolStarted, tool_call_id="c", name="add", path="t1")
    said = thread.say(ev.TaskRetried, path="t1")
    assert brief(said) == [("messages", "error"), ("tools", "tool-error"), ("values", None)]


def test_interrupts_are_asked_at_the_end_and_once(thread):
    asked = {"interrupt_id": "i" * 32, "payload": '{"q": 1}', "ns": "inner:t2"}
    assert thread.say(ev.InputRequested, **asked) == []
    interrupts = [ev.Interrupt(id="i" * 32, payload='{"q": 1}')]
    said = thread.say(ev.TurnInterrupted, interrupts=interrupts)
    assert brief(said) == [
        ("values", None),
        ("input.requested", None),
        ("lifecycle", "interrupted"),
    ]
    params = said[1]["params"]
    assert params["namespace"] == ["inner:t2"]
    assert params["data"]["interrupt_id"] == "i" * 32
    assert params["data"]["value"] == params["data"]["payload"] == {"q": 1}
    thread.say(ev.AttemptStarted, turn="U")
    again = thread.say(ev.TurnInterrupted, turn="U", interrupts=interrupts)
    assert "input.requested" not in {event["method"] for event in again}


@pytest.mark.parametrize("actor", ["ann", "superseded", "expired"])
def test_a_closed_question_is_told_whatever_closed_it(thread, actor):
    thread.say(ev.TurnInterrupted, interrupts=[ev.Interrupt(id="i" * 32, payload="1")])
    (said,) = thread.close("i" * 32, actor=actor)
    assert said["method"] == "input.answered"
    assert said["seq"] == Cursor(1, thread.offset, 0).seq
    assert said["params"] == {
        "namespace": [],
        "timestamp": 5000,
        "data": {"interrupt_ids": ["i" * 32]},
    }
    assert thread.close("i" * 32, actor=actor) == [], "a record that was read before"


def test_a_closed_question_goes_to_who_listens_to_questions(thread):
    record = ev.InputResolved(
        event_id="r", tenant="acme", thread_id="a", turn_id="U", interrupt_id="i", rev=1,
        epoch=0, n=0,
    )  # fmt: skip
    (event,) = thread.projection.apply(thread.fold.apply(record, 9))
    assert Filter.of({"channels": ["input"], "namespaces": [[]], "depth": 0}).takes(event)
    assert not Filter.of({"channels": ["lifecycle", "values", "custom"]}).takes(event)


def test_a_question_that_was_closed_may_be_asked_again(thread):
    thread.say(ev.TurnInterrupted, interrupts=[ev.Interrupt(id="i" * 32, payload='"first?"')])
    thread.close("i" * 32)
    thread.say(ev.AttemptStarted, turn="U")
    again = [ev.Interrupt(id="i" * 32, payload='"second?"')]
    said = thread.say(ev.TurnInterrupted, turn="U", interrupts=again)
    assert brief(said)[1] == ("input.requested", None)
    assert said[1]["params"]["data"]["payload"] == "second?"


def test_who_answers_a_question_that_expired_is_told_the_end(thread):
    thread.say(ev.TurnInterrupted, interrupts=[ev.Interrupt(id="i" * 32, payload="1")])
    thread.close("i" * 32, actor="expired", turn="T")
    thread.say(ev.AttemptStarted, turn="U")
    said = thread.say(ev.TurnRejected, turn="U", reason="interrupt_expired")
    assert brief(said) == [("lifecycle", "failed")]


def test_a_refused_resume_does_not_end_the_run_that_waits(thread):
    thread.say(ev.TurnInterrupted, interrupts=[ev.Interrupt(id="i" * 32, payload="1")])
    thread.say(ev.AttemptStarted, turn="U")
    assert thread.say(ev.TurnRejected, turn="U", reason="stale") == []


def test_the_end_of_a_queued_turn_does_not_end_the_one_that_runs(thread):
    said = thread.say(ev.TurnEnded, turn="Q", outcome="cancelled", epoch=1 << 40, n=1)
    assert said == []
    thread.n = 0
    said = thread.say(ev.TurnCompleted)
    assert brief(said)[-2:] == [("lifecycle", "completed"), ("lifecycle", "failed")]
    assert [event["event_id"].split(":")[1] for event in said[-2:]] == ["T", "Q"]
    assert [event["seq"] for event in said] == sorted({event["seq"] for event in said})


def test_the_end_of_a_queued_turn_waits_for_who_answers_a_question(thread):
    thread.say(ev.TurnInterrupted, interrupts=[ev.Interrupt(id="i" * 32, payload="1")])
    queued = {"turn": "Q", "outcome": "failed", "code": "expired", "epoch": 1 << 40, "n": 1}
    assert thread.say(ev.TurnEnded, **queued) == []
    assert len(thread.close("i" * 32)) == 1
    thread.say(ev.AttemptStarted, turn="U")
    said = thread.say(ev.TurnCompleted, turn="U")
    assert brief(said)[-2:] == [("lifecycle", "completed"), ("lifecycle", "failed")]
    assert said[-1]["params"]["data"] == {"event": "failed", "error": "failed: expired"}
    thread.say(ev.AttemptStarted, turn="V")
    assert brief(thread.say(ev.TurnCompleted, turn="V"))[-1] == ("lifecycle", "completed")


def test_no_more_ends_wait_than_fit_one_record(thread):
    for number in range(100):
        thread.say(ev.TurnEnded, turn=f"Q{number}", outcome="cancelled", epoch=1 << 40, n=1)
    thread.n = 0
    said = thread.say(ev.TurnCompleted)
    assert len(said) < RECORD_EVENTS_MAX
    assert brief(said)[1] == ("lifecycle", "completed")
    assert said[-1]["event_id"].startswith("synth:Q31:")


def test_a_turn_that_ends_unclaimed_fails():
    said = Thread().say(ev.TurnEnded, outcome="failed", code="unknown_graph", epoch=1 << 40, n=1)
    assert said[-1]["params"]["data"] == {"event": "failed", "error": "failed: unknown_graph"}


def test_only_the_root_ends_a_run(thread):
    thread.say(ev.StepStarted, path="t1", step=1, node="outer", task_id="t1")
    said = thread.say(ev.StepStarted, path="t1|t2", step=1, node="inner", task_id="t2")
    assert brief(said) == [("lifecycle", "started"), ("tasks", None)]
    assert said[0]["params"]["namespace"] == ["outer:t1"]
    said = thread.tokens("x", path="t1|t2")
    assert said[0]["params"]["namespace"] == ["outer:t1"]
    said = thread.say(ev.StepFinished, path="t1", step=1, node="outer", task_id="t1")
    assert brief(said)[0] == ("lifecycle", "completed")
    assert said[0]["params"]["namespace"] == ["outer:t1"]


def test_updates_and_checkpoints(thread):
    thread.say(ev.StepStarted, path="t1", step=1, node="model", task_id="t1")
    said = thread.say(
        ev.StepFinished, path="t1", step=1, node="model", task_id="t1", update='{"a": [1]}'
    )
    assert [event["method"] for event in said] == ["updates", "tasks"]
    assert said[0]["params"]["data"] == {"node": "model", "values": {"a": [1]}}
    assert said[1]["params"]["data"]["result"] == {"a": [1]}
    (saved,) = thread.say(ev.CheckpointSaved, checkpoint_id="c2", parent_id="c1", step=3)
    assert saved["params"]["data"] == {
        "id": "c2",
        "parent_id": "c1",
        "step": 3,
        "source": "loop",
    }


def test_more_than_64_events_become_a_snapshot(thread):
    for number in range(80):
        thread.tokens("x", message_id=f"m{number}")
    said = thread.say(ev.TurnCompleted)
    assert brief(said) == [("values", None), ("lifecycle", "completed")]


def test_missing_events_are_said_once_and_the_end_still_comes(thread):
    thread.tokens("x")
    thread.n += 3
    assert brief(thread.tokens("y")) == [("messages", "error"), ("values", None)]
    assert thread.tokens("z") == []
    assert brief(thread.say(ev.TurnCompleted))[-1] == ("lifecycle", "completed")


def test_a_reader_whose_turn_has_lost_its_beginning_shows_no_part_of_a_message():
    thread = Thread()
    thread.epoch, thread.n = 3, 40
    assert thread.tokens("late") == []


def test_messages_of_tools_are_not_messages(thread):
    assert thread.say(ev.MessageStarted, message_id="m", role="tool") == []
