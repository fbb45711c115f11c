"""One worker on a model server that speaks every dialect: each turn ends with its code or text."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from turnstream.schemas.fold.transcript import transcript
from turnstream.schemas.records.events import TurnCompleted, TurnFailed

sys.path.insert(0, str(Path(__file__).parents[2] / "connectors" / "models"))
from recorded_exchanges import ReplayServer, exchanges

# a call of a tool asks the server again, for the tool's answer
PLAYED = [one for one in exchanges() if "calls" not in one.expected]


async def test_each_dialect_ends_its_turn_with_the_right_code_and_text(scene) -> None:
    async with (
        ReplayServer(PLAYED) as server,
        scene.worker(model_url=server.url, model_tries_max=1) as worker,
    ):
        turns = {
            one.name: await scene.start(f"t{number}", one.name) for number, one in enumerate(PLAYED)
        }
        wrong = {}
        for number, one in enumerate(PLAYED):
            view = await scene.done(f"t{number}", turns[one.name])
            said = transcript(view).messages
            found = {
                "code": getattr(view.terminal, "code", ""),
                "message": getattr(view.terminal, "message", ""),
                "retryable": getattr(view.terminal, "retryable", False),
                "text": said[-1].text if said else "",
                "reasoning": said[-1].reasoning if said else "",
            }
            right = {name: one.expected.get(name, type(value)()) for name, value in found.items()}
            kind = TurnFailed if right["code"] else TurnCompleted
            if found != right or not isinstance(view.terminal, kind):
                wrong[one.name] = found, right
        assert not wrong
        await scene.until(lambda: len({r.turn_id for r in scene.results}) == len(PLAYED))
        assert not worker.not_ready()
        codes = {result.turn_id: result.code for result in scene.results}
        assert codes == {turns[one.name]: one.expected.get("code", "") for one in PLAYED}


CHAT_OPENAI = """
from langchain_openai import ChatOpenAI
from langgraph.graph import START, MessagesState, StateGraph

def made(**options):
    model = ChatOpenAI(
        model="scripted", base_url={url!r}, api_key="none", max_retries=0, **options
    )

    async def answer(state):
        return {{"messages": [await model.ainvoke(state["messages"])]}}

    graph = StateGraph(MessagesState)
    graph.add_node("model", answer)
    graph.add_edge(START, "model")
    return graph.compile()

asks = made(stream_usage=True)
asks_not = made(stream_usage=False)
at_once = made(disable_streaming=True)
"""


@pytest.mark.parametrize(
    ("graph", "text", "estimated"),
    [
        ("asks", "tokens=7 reasoning=2", False),
        ("asks", "tokens=7 usage=0", True),
        ("asks_not", "tokens=7", True),
        ("at_once", "tokens=7", False),
        ("at_once", "tokens=7 usage=0", True),
    ],
)
async def test_usage_of_chat_openai_is_what_its_server_counts_or_an_estimate(
    scene: Any, tmp_path: Path, graph: str, text: str, estimated: bool
) -> None:
    (tmp_path / "brought.py").write_text(CHAT_OPENAI.format(url=scene.model.url))
    config = tmp_path / "langgraph.json"
    names = ("asks", "asks_not", "at_once")
    config.write_text(json.dumps({"graphs": {name: f"./brought.py:{name}" for name in names}}))
    async with scene.worker(langgraph_json=config):
        turn = await scene.start("t", text, graph=graph)
        view = await scene.done("t", turn)
        assert isinstance(view.terminal, TurnCompleted), view.terminal
        asked = (scene.model.requests[-1].stream_options or {}).get("include_usage", False)
        assert asked == (graph == "asks")
        (usage,) = view.terminal.usage
        (result, *_) = await scene.until(lambda: scene.results)
        assert result.usage == [usage]
        assert (usage.model, usage.estimated) == ("scripted", estimated)
        if estimated:
            # a token is about four characters, the prompt's as well
            assert 0 < usage.output_tokens <= len(view.terminal.text)
            assert 0 < usage.input_tokens <= len(text) + 20
        else:
            reasoning = 2 if "reasoning" in text else 0
            assert usage.output_tokens == 7 + reasoning
            assert usage.reasoning_tokens == reasoning
            assert usage.input_tokens == len(text) // 4 + 4
