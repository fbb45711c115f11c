"""The built-in agent against the scripted server, its events in a recording emitter."""

from __future__ import annotations

import asyncio
import json
import re
import uuid
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langgraph.checkpoint.memory import InMemorySaver
from pydantic import BaseModel

from turnstream.connectors.memory.emitter import MemoryEmitter
from turnstream.connectors.memory.tool_calls import ORIGIN, MemoryToolCalls
from turnstream.connectors.models.openai.client import OpenAIModel
from turnstream.deploy.local.scripted.server import ScriptedServer
from turnstream.graph.agent.builder import agent_entry, build_agent
from turnstream.graph.agent.retries import RetrySettings
from turnstream.graph.agent.state import AgentSettings
from turnstream.graph.agent.turn_context import TurnContext
from turnstream.graph.agent.version import sources, version_of
from turnstream.graph.ports.lookup import Services
from turnstream.graph.ports.model import MODEL
from turnstream.graph.ports.tools import Effects
from turnstream.graph.run.input import TurnInput
from turnstream.graph.tools import built_in_tools
from turnstream.graph.tools.function import FunctionTool
from turnstream.schemas.errors import (
    ConfigurationError,
    InvalidRequestError,
    ModelStreamCutError,
    StepLimitError,
    ToolError,
)
from turnstream.schemas.fold.fold import ThreadFold, TurnView
from turnstream.schemas.fold.transcript import transcript
from turnstream.schemas.records.events import (
    MessageFinished,
    MessageStarted,
    StepFinished,
    StepStarted,
    TokensEmitted,
    ToolFailed,
    ToolFinished,
    ToolProgressed,
    ToolStarted,
)
from turnstream.schemas.text import text_sha256
from turnstream.schemas.tool_calls import idempotency_key

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

TURN = uuid.UUID("01890000-0000-7000-8000-000000000001")


class Agent:
    """A compiled agent with its server; `say` runs one turn."""

    def __init__(self, server: ScriptedServer, model: OpenAIModel, graph: Any) -> None:
        self.server = server
        self.services = Services().adding(MODEL, model)
        self.graph = graph
        self.emitter = MemoryEmitter.started(turn_id=str(TURN))

    async def say(
        self, text: str, *, thread: str = "t", turn: uuid.UUID = TURN, **configurable: Any
    ) -> list[Any]:
        self.emitter = MemoryEmitter.started(turn_id=str(turn))
        config = {
            "configurable": {"thread_id": thread},
            "metadata": {"run_id": str(turn)},
            "recursion_limit": 100,
        }
        context = TurnContext(
            self.emitter,
            turn,
            f"default/{thread}",
            MemoryToolCalls(),
            configurable,
            self.services,
        )
        async for _ in self.graph.astream(
            {"messages": [HumanMessage(text)]},
            config,
            context=context,
            stream_mode=[],
            durability="sync",
            version="v2",
        ):
            raise AssertionError("nothing is streamed")
        return (await self.graph.aget_state(config)).values["messages"]

    def of(self, kind: type) -> list[Any]:
        return [event for event in self.emitter.events if isinstance(event, kind)]

    def view(self) -> TurnView:
        fold = ThreadFold()
        for event in self.emitter.events:
            fold.apply(event)
        (view,) = fold.turns.values()
        assert view.gaps == 0
        return view


@asynccontextmanager
async def agent(tools: Any = None, **settings: Any) -> AsyncIterator[Agent]:
    async with ScriptedServer() as server, OpenAIModel(server.url) as model:
        graph = build_agent(
            built_in_tools() if tools is None else tools, AgentSettings(**settings)
        ).compile(checkpointer=InMemorySaver())
        yield Agent(server, model, graph)


class Seconds(BaseModel):
    seconds: float = 0.0


async def test_an_answer_is_said_in_order_and_kept():
    async with agent(system_prompt="Be brief.", params={"temperature": 0.5}) as it:
        messages = await it.say("reasoning=2 tokens=5")
        kinds = [type(event).__name__ for event in it.emitter.events]
        assert kinds == [
            "AttemptStarted",
            "StepStarted",
            "MessageStarted",
            *["TokensEmitted"] * 7,
            "MessageFinished",
            "StepFinished",
        ]
        answer = messages[-1]
        (finished,) = it.of(MessageFinished)
        (message,) = transcript(it.view()).messages
        assert message.text == answer.content != ""
        assert message.intact
        assert finished.sha256 == text_sha256(answer.content)
        assert message.reasoning == answer.additional_kwargs["reasoning_content"]
        assert [event.block for event in it.of(TokensEmitted)] == [0, 0, 1, 1, 1, 1, 1]
        assert finished.usage.output_tokens == 7
        assert answer.usage_metadata["output_tokens"] == 7
        assert answer.usage_metadata["output_token_details"]["reasoning"] == 2
        assert json.loads(finished.params) == {"temperature": 0.5}
        assert len(finished.request_sha256) == 64
        (start,), (end,) = it.of(StepStarted), it.of(StepFinished)
        assert start.node == end.node == "model"
        assert start.step == 1
        assert {event.path for event in it.emitter.events[1:]} == {start.task_id}
        assert json.loads(end.update)["messages"][0]["content"] == answer.content
        sent = it.server.requests[-1].messages
        assert sent[0] == {"role": "system", "content": "Be brief."}


async def test_ids_are_the_same_when_the_turn_runs_again():
    said = []
    for _ in range(2):
        async with agent() as it:
            # the same thread, input and checkpoint ids are needed for equal task ids: so compare
            # what the ids are made of
            await it.say('tool=current_time({"zone":"Asia/Seoul"})')
            starts, messages = it.of(StepStarted), it.of(MessageStarted)
            assert [m.message_id for m in messages] == [
                str(uuid.uuid5(TURN, s.task_id)) for s in starts if s.node == "model"
            ]
            state = await it.graph.aget_state({"configurable": {"thread_id": "t"}})
            said.append([type(m) for m in state.values["messages"]])
            tool_message = state.values["messages"][2]
            place = f"{starts[1].step}:tools:tools"
            assert tool_message.id == idempotency_key("default/t", ORIGIN, place, 0)
    assert said[0] == said[1] == [HumanMessage, AIMessage, ToolMessage, AIMessage]


async def test_a_failed_turn_goes_on_under_the_same_message_id():
    """A re-run of the task that broke says its message again, under the same id."""
    async with agent(retries=RetrySettings(tries_max=1)) as it:
        with pytest.raises(ModelStreamCutError):
            await it.say("tokens=6 cut_after=3")
        (first,) = it.of(MessageStarted)
        assert it.of(MessageFinished) == []
        assert it.of(StepFinished)[0].error == "model_stream_cut"
        emitter = MemoryEmitter.started(turn_id=str(TURN))
        config = {"configurable": {"thread_id": "t"}}
        context = TurnContext(emitter, TURN, "default/t", MemoryToolCalls(), services=it.services)
        with pytest.raises(ModelStreamCutError):
            await it.graph.ainvoke(None, config, context=context)
        (again,) = [event for event in emitter.events if isinstance(event, MessageStarted)]
        assert again.message_id == first.message_id
        assert again.path == first.path


async def test_a_tool_is_called_and_its_result_answered():
    async with agent() as it:
        messages = await it.say('tool=current_time({"zone":"Asia/Seoul"})')
        (started,), (finished,) = it.of(ToolStarted), it.of(ToolFinished)
        assert json.loads(started.args) == {"zone": "Asia/Seoul"}
        assert started.tool_call_id == finished.tool_call_id
        assert json.loads(finished.output)["time"].endswith("+09:00")
        assert isinstance(messages[2], ToolMessage)
        assert messages[2].content == finished.output
        assert messages[1].tool_calls[0]["args"] == {"zone": "Asia/Seoul"}
        assert finished.output in messages[3].content
        args = [event for event in it.of(TokensEmitted) if event.kind == "tool_args"]
        assert args[0].tool_name == "current_time"
        assert args[0].tool_call_id == started.tool_call_id
        assert json.loads("".join(event.text for event in args)) == {"zone": "Asia/Seoul"}
        assert [event.node for event in it.of(StepStarted)] == ["model", "tools", "model"]
        assert [event.step for event in it.of(StepStarted)] == [1, 2, 3]
        (tool,) = transcript(it.view()).tools
        assert tool.state == "finished"


async def test_tools_of_one_answer_run_at_the_same_time():
    met = asyncio.Barrier(2)

    async def meet(arguments: Seconds, context: Any) -> str:
        """Wait for the other."""
        await met.wait()
        context.progress({"met": True})
        return "met"

    async with agent([FunctionTool(meet, Seconds, timeout_s=60)]) as it:
        messages = await it.say("tool=meet({}) tool=meet({})")
        assert [m.content for m in messages if isinstance(m, ToolMessage)] == ["met", "met"]
        assert len({event.tool_call_id for event in it.of(ToolFinished)}) == 2
        assert [event.data for event in it.of(ToolProgressed)] == ['{"met":true}'] * 2


@pytest.mark.parametrize(
    ("call", "code", "words"),
    [
        ("nothing({})", "tool_unknown", "current_time, calculate"),
        ('current_time({"zone":"Mars/Olympus"})', "tool_arguments", "IANA"),
        ('current_time({"zone":5})', "tool_arguments", "zone: Input should be a valid string"),
        ('current_time({"place":"x"})', "tool_arguments", "place"),
        ("current_time([1])", "tool_arguments", "no JSON object"),
        ("current_time({bad)", "tool_arguments", "no JSON object"),
        ('calculate({"expression":"9**9**9"})', "tool_arguments", "bits"),
    ],
)
async def test_a_call_that_cannot_be_made_is_told_to_the_model(call, code, words):
    async with agent() as it:
        messages = await it.say(f"tool={call}")
        (failed,) = it.of(ToolFailed)
        assert failed.code == code
        assert words in failed.message
        tool_message = next(m for m in messages if isinstance(m, ToolMessage))
        assert tool_message.status == "error"
        assert tool_message.content == failed.message
        assert failed.message in messages[-1].content  # the model went on
        assert [tool.state for tool in transcript(it.view()).tools] == ["failed"]


async def test_a_tool_that_breaks_is_told_to_the_model():
    async def broken(arguments: Seconds, context: Any) -> str:
        """Break."""
        raise KeyError("inside")

    async def sent(arguments: Seconds, context: Any) -> str:
        """Send something, and lose the answer."""
        raise ConnectionResetError("gone")

    async def refusing(arguments: Seconds, context: Any) -> str:
        """Refuse."""
        raise ToolError("not today", code="closed")

    tools = (
        FunctionTool(broken, Seconds, effects=None),
        *[FunctionTool(tool, Seconds) for tool in (sent, refusing)],
    )
    async with agent(tools) as it:
        messages = await it.say("tool=broken({}) tool=refusing({}) tool=sent({})")
        failed = {
            (event.code, re.sub(r"error id [0-9a-f]{8}", "error id", event.message))
            for event in it.of(ToolFailed)
        }
        assert failed == {
            ("tool_error", "the tool failed: KeyError (error id)"),
            ("closed", "not today"),
            (
                "tool_indeterminate",
                (
                    "It is not known whether sent took effect: it failed in the middle"
                    " (ConnectionResetError (error id))."
                ),
            ),
        }
        assert isinstance(messages[-1], AIMessage)


@pytest.mark.parametrize(
    ("effects", "code"), [(None, "tool_error"), (Effects(), "tool_indeterminate")]
)
async def test_a_tool_that_cancels_itself_does_not_cancel_the_turn(effects, code):
    async def cancelled(arguments: Seconds, context: Any) -> str:
        """Wait for something that was cancelled."""
        future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        future.cancel()
        return await future

    async with agent([FunctionTool(cancelled, Seconds, effects=effects)]) as it:
        messages = await it.say("tool=cancelled({})")
        assert it.of(ToolFailed)[0].code == code
        assert isinstance(messages[-1], AIMessage)


async def test_cancelling_the_turn_stops_its_tools():
    began, ended = asyncio.Event(), asyncio.Event()

    async def endless(arguments: Seconds, context: Any) -> str:
        """Wait for ever."""
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        return ""

    async with agent([FunctionTool(endless, Seconds)]) as it:
        turn = asyncio.create_task(it.say("tool=endless({})"))
        async with asyncio.timeout(60):
            await began.wait()
            turn.cancel()
            await asyncio.wait([turn])
            await ended.wait()
        assert it.of(ToolFailed) == it.of(ToolFinished) == []


async def test_odd_characters_in_a_tools_output():
    async def odd(arguments: Seconds, context: Any) -> str:
        """Say odd things."""
        return "a\x00b\ud800c"

    async with agent([FunctionTool(odd, Seconds)]) as it:
        messages = await it.say("tool=odd({})")
        assert it.of(ToolFinished)[0].output == messages[2].content == "a\ufffdb\ufffdc"


@pytest.mark.parametrize(
    ("effects", "code"), [(None, "tool_timeout"), (Effects(), "tool_indeterminate")]
)
async def test_a_slow_tool_is_given_up(effects, code):
    async def slow(arguments: Seconds, context: Any) -> str:
        """Wait."""
        await asyncio.sleep(arguments.seconds)
        return "late"

    async with agent([FunctionTool(slow, Seconds, effects=effects)], tool_timeout_s=0.05) as it:
        await it.say('tool=slow({"seconds":60})')
        (failed,) = it.of(ToolFailed)
        assert failed.code == code


async def test_a_plain_function_runs_in_a_thread_and_its_late_progress_is_not_heard():
    import threading

    go_on = threading.Event()
    said = threading.Event()

    def blocking(arguments: Seconds, context: Any) -> str:
        """Block."""
        context.progress("in time")
        go_on.wait(60)
        context.progress("too late")
        said.set()
        return "late"

    async with agent([FunctionTool(blocking, Seconds, timeout_s=1.0)]) as it:
        await it.say("tool=blocking({})")
        go_on.set()
        assert await asyncio.to_thread(said.wait, 60)
        await asyncio.sleep(0)  # what the thread handed to the loop has run
        assert [event.data for event in it.of(ToolProgressed)] == ['"in time"']
        assert it.of(ToolFailed)[0].code == "tool_indeterminate"  # it may take effect yet


async def test_large_output_is_cut():
    async def large(arguments: Seconds, context: Any) -> str:
        """Say much."""
        return "x" * 1000

    async with agent([FunctionTool(large, Seconds)], tool_output_chars_max=100) as it:
        await it.say("tool=large({})")
        (finished,) = it.of(ToolFinished)
        assert finished.output == "x" * 100 + "\n[cut: the first 100 of 1000 characters]"


async def test_too_many_calls_at_once_are_refused_one_by_one():
    async with agent(tool_calls_max=2) as it:
        await it.say(" ".join(['tool=calculate({"expression":"1+1"})'] * 3))
        assert [event.output for event in it.of(ToolFinished)] == ["2", "2"]
        assert [event.code for event in it.of(ToolFailed)] == ["tool_calls_max"]


async def test_the_last_allowed_call_is_made_without_tools():
    async with agent(steps_max=3) as it:
        messages = await it.say('rounds=100 tool=calculate({"expression":"1+1"})')
        assert [bool(request.tools) for request in it.server.requests] == [True, True, False]
        assert messages[-1].content == "The tools say: 2; 2"


async def test_a_model_that_insists_on_tools_fails_the_turn():
    async with agent(steps_max=2) as it:
        with pytest.raises(StepLimitError):
            await it.say('insist=1 rounds=100 tool=calculate({"expression":"1+1"})')
        assert it.of(StepFinished)[-1].error == "step_limit"


async def test_the_bound_counts_from_the_last_user_message():
    async with agent(steps_max=2) as it:
        for number in range(3):
            turn = uuid.uuid4()
            messages = await it.say(f'tool=calculate({{"expression":"{number}+1"}})', turn=turn)
            assert messages[-1].content == f"The tools say: {number + 1}"
        ids = [m.id for m in messages]
        assert len(set(ids)) == len(ids)


async def test_a_turn_may_choose_model_prompt_and_tools():
    async with agent() as it:
        await it.say(
            "hello",
            model="other",
            system_prompt="",
            tools=["calculate"],
            max_tokens=3,
            thread_id="ignored",
        )
        request = it.server.requests[-1]
        assert request.model == "other"
        assert request.max_tokens == 3
        assert [message["role"] for message in request.messages] == ["user"]
        assert [tool["function"]["name"] for tool in request.tools] == ["calculate"]


async def test_a_tool_that_the_turn_does_not_offer_cannot_be_called():
    async with agent() as it:
        await it.say('insist=1 tool=calculate({"expression":"1"})', tools=["current_time"])
        assert it.of(ToolFailed)[0].code == "tool_unknown"


async def test_wrong_settings_of_a_turn_are_named():
    async with agent() as it:
        with pytest.raises(InvalidRequestError, match="temperature") as caught:
            await it.say("hello", temperature=7)
        assert caught.value.code == "invalid_configurable"


async def test_cancelling_the_turn_frees_the_servers_slot():
    async with agent() as it:
        turn = asyncio.create_task(it.say("tokens=100000 rate=100"))
        async with asyncio.timeout(60):
            while not it.of(TokensEmitted):
                await asyncio.sleep(0.005)
            turn.cancel()
            await asyncio.wait([turn])
            while it.server.running:
                await asyncio.sleep(0.005)
        assert it.server.aborted == 1
        assert it.of(StepFinished) == []


async def test_a_closed_emitter_hears_nothing():
    async with agent() as it:
        emitter = MemoryEmitter.started()
        emitter.close()
        context = TurnContext(emitter, TURN, "default/t", MemoryToolCalls(), services=it.services)
        await it.graph.ainvoke(
            {"messages": [HumanMessage("hello")]},
            {"configurable": {"thread_id": "t"}},
            context=context,
        )
        assert len(emitter.events) == 1


def test_two_tools_of_one_name_are_refused():
    with pytest.raises(ConfigurationError):
        build_agent(built_in_tools() * 2)


@pytest.mark.parametrize("steps", [0, 51])
def test_a_bound_that_langgraph_would_not_reach_is_refused(steps):
    with pytest.raises(ConfigurationError):
        build_agent((), AgentSettings(steps_max=steps))


async def test_the_largest_bound_can_be_reached():
    async with agent(steps_max=50) as it:
        messages = await it.say('rounds=100 tool=calculate({"expression":"1"})')
        assert len(it.server.requests) == 50
        assert messages[-1].content.startswith("The tools say: ")


def test_the_catalogs_entry():
    services = Services().adding(MODEL, OpenAIModel("http://127.0.0.1:1"))
    entry = agent_entry(services, built_in_tools())
    assert entry.native
    assert entry.hash == version_of(sources(), built_in_tools(), AgentSettings())
    given = TurnInput(
        turn_id=str(TURN), thread_key="default/t", config={"configurable": {"model": "m"}}
    )
    emitter, ledger = MemoryEmitter.started(), MemoryToolCalls()
    commits: Any = SimpleNamespace(tool_calls=ledger, settled=None)
    assert entry.make_context is not None
    assert entry.make_context(emitter, given, commits) == TurnContext(
        emitter, TURN, "default/t", ledger, {"model": "m"}, services
    )
    assert entry.make_context(
        emitter, TurnInput(turn_id=str(TURN), thread_key="t", config={"configurable": 5}), commits
    ) == TurnContext(emitter, TURN, "t", ledger, {}, services)
