"""The model client and the agent against a real llama.cpp server with SmolLM2."""

from __future__ import annotations

import asyncio
import uuid
from typing import TYPE_CHECKING

import aiohttp
import pytest
from langchain_core.messages import HumanMessage

from turnstream.connectors.memory.emitter import MemoryEmitter
from turnstream.connectors.memory.tool_calls import MemoryToolCalls
from turnstream.connectors.models.openai.client import OpenAIModel
from turnstream.deploy.local import LocalStack
from turnstream.graph.agent.builder import build_agent
from turnstream.graph.agent.state import AgentSettings
from turnstream.graph.agent.turn_context import TurnContext
from turnstream.graph.ports.lookup import Services
from turnstream.graph.ports.model import MODEL
from turnstream.schemas.chat import ChatRequest, Delta, UserMessage
from turnstream.schemas.errors import ModelContextError, ModelError
from turnstream.schemas.records.events import MessageFinished, TokensEmitted
from turnstream.schemas.text import text_sha256

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Return the base URL of a llama.cpp server that ends with the module."""
    folder: Path = tmp_path_factory.mktemp("llama")
    with LocalStack(folder, parts=("model",)) as local:
        yield local.model_url


async def test_a_real_answer_streams_with_usage(url):
    heard: list[Delta] = []
    async with OpenAIModel(url) as model:
        answer = await model.stream(
            ChatRequest(
                messages=(UserMessage("Say hello."),),
                params={"max_tokens": 16, "temperature": 0},
            ),
            heard.extend,
        )
    assert "".join(delta.text for delta in heard).strip()
    assert len(heard) > 1
    assert answer.usage is not None
    assert 0 < answer.usage.output_tokens <= 16
    assert answer.finish_reason in {"stop", "length"}


async def test_a_completion_that_is_not_streamed_says_the_same(url):
    said: list[list[Delta]] = []
    async with OpenAIModel(url) as model:
        for stream in (True, False):
            heard: list[Delta] = []
            answer = await model.stream(
                ChatRequest(
                    messages=(UserMessage("Say hello."),),
                    params={"max_tokens": 16, "temperature": 0, "seed": 1, "stream": stream},
                ),
                heard.extend,
            )
            assert answer.finish_reason in {"stop", "length"}
            assert answer.usage is not None
            said.append(heard)
    streamed, whole = ("".join(delta.text for delta in deltas) for deltas in said)
    assert streamed == whole
    assert len(said[1]) == 1 < len(said[0])


async def test_a_request_that_the_server_refuses_tells_why(url):
    async with OpenAIModel(url) as model:
        with pytest.raises(ModelError, match=r"the model server answered \d+: .*tools"):
            await model.stream(
                ChatRequest(messages=(UserMessage("x"),), params={"tools": 5}),
                lambda _: None,
            )


async def test_a_conversation_beyond_the_context_has_its_own_code(url):
    async with OpenAIModel(url) as model:
        with pytest.raises(ModelContextError):
            await model.stream(
                ChatRequest(messages=(UserMessage("word " * 60_000),)),
                lambda _: None,
            )


async def test_cancel_frees_the_slot(url):
    first = asyncio.Event()
    async with OpenAIModel(url) as model, aiohttp.ClientSession() as http:
        call = asyncio.create_task(
            model.stream(
                ChatRequest(
                    messages=(UserMessage("Count to one thousand."),),
                    params={"max_tokens": 2000},
                ),
                lambda _: first.set(),
            )
        )
        async with asyncio.timeout(60):
            await first.wait()
            call.cancel()
            await asyncio.wait([call])
            while True:
                async with http.get(url.removesuffix("/v1") + "/slots") as response:
                    if response.status != 200 or not any(
                        slot["is_processing"] for slot in await response.json()
                    ):
                        break
        assert response.status == 200
        assert call.cancelled()


async def test_the_agent_answers(url):
    turn = uuid.uuid4()
    emitter = MemoryEmitter.started(turn_id=str(turn))
    async with OpenAIModel(url) as model:
        graph = build_agent((), AgentSettings(params={"max_tokens": 24})).compile()
        state = await graph.ainvoke(
            {"messages": [HumanMessage("What is the capital of France?")]},
            context=TurnContext(
                emitter,
                turn,
                "default/t",
                MemoryToolCalls(),
                services=Services().adding(MODEL, model),
            ),
        )
    text = state["messages"][-1].content
    said = "".join(e.text for e in emitter.events if isinstance(e, TokensEmitted))
    finished = next(e for e in emitter.events if isinstance(e, MessageFinished))
    assert said == text
    assert finished.sha256 == text_sha256(text)
