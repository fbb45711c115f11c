"""What a run is given and what streams of it show: context, empty inputs, nested graphs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from tests.integration.sdk.conftest import running_edge

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

GRAPHS = """
from typing import TypedDict

from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime
from langgraph.types import interrupt


class State(TypedDict, total=False):
    said: str


class Context(TypedDict, total=False):
    city: str
    model: str


def one(node, **options):
    graph = StateGraph(State, **options)
    graph.add_node("node", node)
    graph.add_edge(START, "node")
    graph.add_edge("node", END)
    return graph.compile()


def ask(state: State) -> State:
    return {"said": interrupt("who?")}


def tell(state: State, runtime: Runtime[Context]) -> State:
    return {"said": (runtime.context or {}).get("city", "nowhere")}


asking = one(ask)
telling = one(tell, context_schema=Context)
nested = one(telling, context_schema=Context)
"""


@pytest.fixture
async def http(scene: Any, tmp_path: Path) -> AsyncIterator[aiohttp.ClientSession]:
    (tmp_path / "given.py").write_text(GRAPHS)
    config = tmp_path / "langgraph.json"
    names = ("asking", "telling", "nested")
    config.write_text(json.dumps({"graphs": {name: f"./given.py:{name}" for name in names}}))
    changes = {"langgraph_json": config, "configurable_locked": ("model",)}
    async with (
        scene.worker(**changes),
        running_edge(scene, **changes) as edge,
        aiohttp.ClientSession(f"http://127.0.0.1:{edge.port}") as session,
    ):
        yield session


async def post(http: aiohttp.ClientSession, path: str, body: Any) -> tuple[int, Any]:
    async with http.post(path, json=body) as response:
        return response.status, await response.json(content_type=None)


def start(**params: Any) -> dict[str, Any]:
    return {"id": 1, "method": "run.start", "params": {"assistant_id": "asking", **params}}


async def test_a_question_stays_open_until_it_is_answered(http: aiohttp.ClientSession) -> None:
    run = {"assistant_id": "asking", "input": {}, "if_not_exists": "create"}
    assert (await post(http, "/threads/q/runs/wait", run))[0] == 200
    for path, body in (
        ("/threads/q/runs/wait", {"assistant_id": "asking", "input": None}),
        ("/threads/q/runs/wait", {"assistant_id": "asking"}),
        ("/threads/q/commands", start(input=None)),
        ("/threads/q/commands", start()),
    ):
        status, problem = await post(http, path, body)
        assert (status, problem["code"]) == (422, "input_missing"), problem
    async with http.get("/threads/q") as response:
        thread = await response.json()
    assert thread["status"] == "interrupted"
    # an empty input beside an answer is none, as clients of the reference send it
    body = {"assistant_id": "asking", "input": {}, "command": {"resume": "kim"}}
    assert await post(http, "/threads/q/runs/wait", body) == (200, {"said": "kim"})


async def test_context_reaches_the_graph_unless_the_operator_locks_it(
    http: aiohttp.ClientSession,
) -> None:
    run = {"assistant_id": "telling", "input": {}}
    for more, said in (({}, "nowhere"), ({"context": {"city": "Seoul"}}, "Seoul")):
        assert await post(http, "/runs/wait", run | more) == (200, {"said": said})
    for more in ({"context": {"model": "m"}}, {"config": {"configurable": {"model": "m"}}}):
        status, problem = await post(http, "/runs/wait", run | more)
        assert (status, problem["code"]) == (422, "configurable_locked")
        assert problem["field"].endswith(".model")
        status, problem = await post(http, "/threads/c/commands", start(input={}, **more))
        assert (status, problem["code"]) == (422, "configurable_locked")


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ({"stream_mode": ["updates", "custom"]}, {"updates"}),
        ({"stream_mode": "tasks"}, {"tasks"}),
        ({}, {"values"}),
    ],
)
async def test_a_join_shows_the_modes_that_the_run_was_started_with(
    http: aiohttp.ClientSession, given: dict[str, Any], shown: set[str]
) -> None:
    """As on LangGraph's server, where a join that names no mode leaves none out."""
    run = {"assistant_id": "telling", "input": {"said": "x"}, "context": {"city": "Seoul"}, **given}
    _, made = await post(http, "/runs", run)
    place = f"/threads/{made['thread_id']}/runs/{made['run_id']}/stream"
    for query, events in (([], shown), ([("stream_mode", "debug")], {"debug"})):
        async with http.get(place, params=query, headers={"Last-Event-ID": "-1"}) as response:
            text = (await response.read()).decode()
        found = {line[7:].strip() for line in text.splitlines() if line.startswith("event: ")}
        assert found - {"metadata", "end"} == events, text
    status, problem = await post(http, "/runs", {**run, "stream_mode": "nonsense"})
    assert (status, problem["code"]) == (422, "unsupported_stream_mode")


async def test_a_join_of_a_run_that_named_no_modes_shows_the_usual_ones(
    http: aiohttp.ClientSession,
) -> None:
    """One of the protocol's; a config may hold anything under the name."""
    await post(http, "/threads", {"thread_id": "t"})
    for number, config in enumerate(({}, {"stream_mode": [{}, 1, "nonsense"]})):
        params = {"assistant_id": "telling", "input": {"said": "x"}, "config": config}
        status, made = await post(http, "/threads/t/commands", start(**params))
        assert status == 200, made
        place = f"/threads/t/runs/{made['result']['run_id']}/stream"
        async with http.get(place, headers={"Last-Event-ID": "-1"}) as response:
            text = (await response.read()).decode()
        assert "event: updates" in text, number
        assert "event: values" in text, number


@pytest.mark.parametrize("nested", [True, False])
async def test_a_join_shows_nested_graphs_as_the_run_was_started(
    http: aiohttp.ClientSession, nested: bool
) -> None:
    run = {"assistant_id": "nested", "input": {}, "stream_subgraphs": nested}
    _, made = await post(http, "/runs", run)
    place = f"/threads/{made['thread_id']}/runs/{made['run_id']}/stream"
    for query, shown in ((), nested), ((("stream_subgraphs", "true"),), True):
        asked = [("stream_mode", "updates"), *query]
        async with http.get(place, params=asked, headers={"Last-Event-ID": "-1"}) as response:
            text = (await response.read()).decode()
        assert "event: updates\r\n" in text or "event: updates\n" in text
        assert ("event: updates|" in text) == shown, text
