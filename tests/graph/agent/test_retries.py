"""Model calls that fail and are made again: when, how often, and what readers see of it."""

from __future__ import annotations

import time
import uuid
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from langchain_core.messages import HumanMessage
from langgraph.checkpoint.memory import InMemorySaver

from turnstream.connectors.memory.emitter import MemoryEmitter
from turnstream.connectors.memory.tool_calls import MemoryToolCalls
from turnstream.connectors.models.openai.client import ModelLimits, OpenAIModel
from turnstream.deploy.local.scripted.server import ScriptedServer
from turnstream.graph.agent.builder import build_agent
from turnstream.graph.agent.retries import Retries, RetrySettings
from turnstream.graph.agent.state import AgentSettings
from turnstream.graph.agent.turn_context import TurnContext
from turnstream.graph.ports.lookup import Services
from turnstream.graph.ports.model import MODEL
from turnstream.graph.run.said import Said
from turnstream.graph.tools import built_in_tools
from turnstream.schemas.errors import (
    FencedError,
    ModelBadResponseError,
    ModelContextError,
    ModelError,
    ModelFirstTokenTimeoutError,
    ModelOverloadedError,
    ModelRefusedError,
    ModelStreamCutError,
    ModelTokenGapTimeoutError,
    ModelUnreachableError,
    TurnTimeoutError,
)
from turnstream.schemas.fold.fold import ThreadFold, TurnView
from turnstream.schemas.fold.transcript import transcript
from turnstream.schemas.records.events import Keep, StepStarted, TaskRetried

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

QUICK = RetrySettings(backoff_s=0.001)
PATIENT = ModelLimits(first_token_timeout_s=60, token_gap_timeout_s=60)
"""Of a machine as slow as may be; a test of one of the two cuts that one short."""


class Agent:
    """The built-in agent on a scripted server; `say` runs one turn."""

    def __init__(self, server: ScriptedServer, model: OpenAIModel, graph: Any) -> None:
        self.server = server
        self.services = Services().adding(MODEL, model)
        self.graph = graph
        self.emitter = MemoryEmitter.started()
        self.said = Said(self.emitter)
        self.settled: list[str] = []

    async def say(self, text: str) -> None:
        async def settled(path: str) -> list[Keep]:
            self.settled.append(path)
            return []

        context = TurnContext(
            self.said, uuid.uuid4(), "default/t", MemoryToolCalls(), {}, self.services, settled
        )
        await self.graph.ainvoke(
            {"messages": [HumanMessage(text)]},
            {"configurable": {"thread_id": "t"}},
            context=context,
        )

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
async def agent(
    retries: RetrySettings = QUICK, limits: ModelLimits = PATIENT
) -> AsyncIterator[Agent]:
    settings = AgentSettings(retries=retries)
    async with (
        ScriptedServer() as server,
        OpenAIModel(server.url, model="scripted", limits=limits) as model,
    ):
        graph = build_agent(built_in_tools(), settings)
        yield Agent(server, model, graph.compile(checkpointer=InMemorySaver()))


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        ("error=429", "model_http_429"),
        ("error=503", "model_http_503"),
        ("hangup=1", "model_unreachable"),
        ("cut_after=0", "model_stream_cut"),
        ("cut_after=3", "model_stream_cut"),
        ("error_after=3", "model_http_500"),
        ("stall_after=0", "model_first_token_timeout"),
        ("stall_after=3 rate=500", "model_token_gap_timeout"),
    ],
)
async def test_what_passes_is_tried_again_and_leaves_no_trace_in_the_text(fault, code):
    short = {"model_first_token_timeout": "first_token", "model_token_gap_timeout": "token_gap"}
    limits = {f"{short[code]}_timeout_s": 0.5} if code in short else {}
    async with agent(limits=replace(PATIENT, **limits)) as it:
        await it.say(f"tokens=6 {fault} error_times=2")
        assert len(it.server.requests) == 3
        retried = it.of(TaskRetried)
        assert [event.attempt for event in retried] == [2, 3]
        assert all(event.error.startswith(f"{code}: ") for event in retried)
        (step,) = [item for item in it.view().items if isinstance(item, StepStarted)]
        assert [event.path for event in retried] == it.settled == [step.path] * 2
        (message,) = transcript(it.view()).messages
        assert len(message.text.split()) == 6
        assert message.intact
        assert it.said.retried == 2
        answer = it.said.answer()
        assert answer is not None
        assert answer.text == message.text


@pytest.mark.parametrize(
    ("fault", "kind", "shown"),
    [("error=400", ModelRefusedError, 0), ("error=context", ModelContextError, 0)],
)
async def test_a_request_that_is_wrong_is_not_repeated(fault, kind, shown):
    async with agent() as it:
        with pytest.raises(kind):
            await it.say(f"tokens=6 {fault} error_times=1")
        assert len(it.server.requests) == 1
        assert it.of(TaskRetried) == []
        assert len(transcript(it.view()).messages) == shown


async def test_the_last_try_ends_the_turn_and_its_words_stay():
    async with agent() as it:
        with pytest.raises(ModelStreamCutError):
            await it.say("tokens=9 cut_after=4")
        assert len(it.server.requests) == 3
        (message,) = transcript(it.view()).messages
        assert len(message.text.split()) == 4


async def test_the_budget_is_the_turns():
    """Three calls of one turn, each failing twice: the budget of 4 ends in the third."""
    async with agent(RetrySettings(backoff_s=0.001, turn_retries_max=4)) as it:
        call = 'tool=current_time({"zone":"Asia/Seoul"}) rounds=3 tokens=5'
        with pytest.raises(ModelOverloadedError):
            await it.say(f"{call} error=503 error_times=2")
        assert len(it.of(TaskRetried)) == 4


async def test_retry_after_is_waited_for_and_a_long_one_is_not():
    async with agent() as it:
        began = time.monotonic()
        await it.say("tokens=1 error=429 error_times=1 retry_after=0.4")
        assert time.monotonic() - began >= 0.4
    async with agent() as it:
        began = time.monotonic()
        with pytest.raises(ModelOverloadedError):
            await it.say("tokens=1 error=429 error_times=1 retry_after=61")
        assert time.monotonic() - began < 50
        assert len(it.server.requests) == 1


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (ModelUnreachableError(), True),
        (ModelOverloadedError(), True),
        (ModelStreamCutError(), True),
        (ModelFirstTokenTimeoutError(), True),
        (ModelTokenGapTimeoutError(), True),
        (ModelRefusedError(), False),
        (ModelContextError(), False),
        (ModelBadResponseError(), False),
        (ModelError(), False),
        (TurnTimeoutError(), False),
        (FencedError(), False),
        (ConnectionError(), False),
    ],
)
def test_the_class_of_the_error_decides(error, again):
    assert (Retries().wait_s(RetrySettings(), error, 1) is not None) is again


def test_waits_double_up_to_a_bound_with_jitter():
    settings = RetrySettings(tries_max=100, turn_retries_max=1000, backoff_s=1, backoff_max_s=8)
    for tries, longest in ((1, 1), (2, 2), (3, 4), (4, 8), (5, 8), (50, 8)):
        waits = [Retries().wait_s(settings, ModelStreamCutError(), tries) for _ in range(50)]
        assert all(longest / 2 <= wait <= longest for wait in waits if wait is not None)
        assert len(set(waits)) > 10
