"""langgraph.json: what is loaded, and what each mistake is told."""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import sys
from typing import TYPE_CHECKING, Any

import pytest

from turnstream.connectors.postgres.checkpoints.serializer import StateSerializer
from turnstream.graph.langgraph.catalog import AGENT, BUILT_IN, Catalog, GraphEntry
from turnstream.graph.langgraph.factories import Use
from turnstream.graph.langgraph.graph_modules import module_name
from turnstream.graph.run.input import TurnInput
from turnstream.schemas.errors import CatalogError, NotFoundError
from turnstream.schemas.ids import assistant_id_of

if TYPE_CHECKING:
    from pathlib import Path

SOURCE = """
from typing import TypedDict
from langgraph.graph import START, StateGraph
class State(TypedDict):
    x: int
async def node(state): return {"x": state["x"] + 1}
builder = StateGraph(State)
builder.add_node("node", node)
builder.add_edge(START, "node")
graph = builder.compile()
paused = builder.compile(interrupt_before=["node"])
def factory(): return builder
def with_config(config): return builder.compile(name=str(sorted(config)))
async def later(config): return builder.compile()
def broken(): raise RuntimeError("no key")
def keyed(config): return {"a": builder}[config["configurable"]["model"]]
outer = StateGraph(State)
outer.add_node("inner", builder.compile(checkpointer=False))
outer.add_edge(START, "inner")
holds = outer.compile()
number = 7
"""


def load(folder: Path, reference: Any, content: str = SOURCE) -> Catalog:
    (folder / "mine.py").write_text(content)
    (folder / "langgraph.json").write_text(json.dumps({"graphs": {"g": reference}}))
    catalog = Catalog()
    catalog.load(folder / "langgraph.json")
    return catalog


@pytest.mark.parametrize("name", ["graph", "builder", "factory", "with_config", "later"])
async def test_graphs_builders_and_factories(tmp_path: Path, name: str) -> None:
    catalog = load(tmp_path, f"./mine.py:{name}")
    entry = catalog.get("g")
    assert entry is not None
    assert not entry.native
    async with entry.opened(Use(access="threads.create_run")) as graph:
        assert await graph.ainvoke({"x": 1}) == {"x": 2}
    assert catalog.names == ("g",)
    assert "g" in catalog


def test_an_object_with_a_path(tmp_path: Path) -> None:
    entry = load(tmp_path, {"path": "./mine.py:graph", "description": "adds one"}).get("g")
    assert entry is not None
    assert entry.description == "adds one"


def test_the_hash_follows_the_code(tmp_path: Path) -> None:
    hashes = set()
    for number, source in enumerate((SOURCE, SOURCE, SOURCE + "\n# changed")):
        folder = tmp_path / str(number)
        folder.mkdir()
        entry = load(folder, "./mine.py:graph", source).get("g")
        assert entry is not None
        hashes.add(entry.hash)
    assert len(hashes) == 2


def test_a_subgraph_without_checkpointer_inherits(tmp_path: Path) -> None:
    entry = load(tmp_path, "./mine.py:holds").get("g")
    assert entry is not None
    assert entry.graph is not None
    inner: Any = entry.graph.nodes["inner"].bound
    assert inner.checkpointer is None


@pytest.mark.parametrize(
    ("reference", "says"),
    [
        ("./mine.py", "write it as './file.py:variable'"),
        (7, "write it as './file.py:variable'"),
        ("./other.py:graph", "there is no file"),
        ("./mine.py:gone", "the module has no 'gone'"),
        ("./mine.py:number", "it is a int"),
        ("./mine.py:paused", "call interrupt() in the node"),
        ("no.such.module:graph", "No module named 'no'"),
    ],
)
def test_a_mistake_names_the_entry_and_the_fix(tmp_path: Path, reference: Any, says: str) -> None:
    with pytest.raises(CatalogError) as raised:
        load(tmp_path, reference)
    assert says in str(raised.value)
    assert "'g'" in str(raised.value)


def test_a_module_that_does_not_import(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match=r"its module raises SyntaxError: .*mine\.py:2\)"):
        load(tmp_path, "./mine.py:graph", "\ndef")
    with pytest.raises(CatalogError, match=r"raises SystemExit: 3 \(.*mine\.py:3\)"):
        load(tmp_path, "./mine.py:graph", "import sys\n\nsys.exit(3)")


async def test_a_probe_calls_factories_and_names_file_and_line(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match=r"'g': .* RuntimeError: no key \(.*mine\.py:15\)"):
        await load(tmp_path, "./mine.py:broken").probe()
    with pytest.raises(CatalogError, match=r"'g': it is a int"):
        await load(tmp_path, "./mine.py:seven", SOURCE + "def seven(): return 7").probe()
    (lacking,) = await load(tmp_path, "./mine.py:keyed").probe()
    assert lacking.startswith("g needs 'model' in its config (")
    assert await load(tmp_path, "./mine.py:graph").probe() == []


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"graphs": {}}', '{"graphs": []}'])
def test_a_file_that_names_nothing(tmp_path: Path, content: str) -> None:
    path = tmp_path / "langgraph.json"
    path.write_text(content)
    with pytest.raises(CatalogError):
        Catalog().load(path)


def test_a_name_is_taken_once(tmp_path: Path) -> None:
    catalog = load(tmp_path, "./mine.py:graph")
    with pytest.raises(CatalogError, match="already"):
        catalog.load(tmp_path / "langgraph.json")


FACTORIES = """
import contextlib
from typing import Optional
from langgraph.store.base import BaseStore
from langgraph_sdk.auth.types import BaseUser
from langchain_core.runnables import RunnableConfig
from langgraph_sdk.runtime import ServerRuntime
from langgraph.graph import START, MessagesState, StateGraph
seen = []
def built(name):
    seen.append(name)
    builder = StateGraph(MessagesState)
    builder.add_node("node", lambda state: {})
    builder.add_edge(START, "node")
    return builder.compile(name=name)
def model(config): return config["configurable"]["model"]
def plain(config): return built(model(config))
def annotated(whatever: RunnableConfig): return built(model(whatever))
def as_text(whatever: "RunnableConfig"): return built(model(whatever))
async def awaited(config: RunnableConfig): return built(model(config))
def unnamed(_): return built(model(_))
def optional(config=None, verbose=False): return built(model(config))
@contextlib.asynccontextmanager
async def entered(config):
    yield built(model(config))
    seen.append("left")
@contextlib.contextmanager
def entered_plainly(config):
    yield built(model(config))
    seen.append("left")
async def yields(config):
    yield built(model(config))
    seen.append("left")
def of_runtime(runtime: ServerRuntime):
    return built(runtime.execution_runtime.context["model"])
async def of_both(config: RunnableConfig, runtime: ServerRuntime[dict]):
    assert runtime.access_context == "threads.create_run"
    assert runtime.user is None
    return built(model(config))
def of_caller(caller: BaseUser | None, config): return built(caller.identity + caller["team"])
def of_user(user): return built(user.identity + user["team"])
def of_store(shelf: BaseStore):
    assert shelf.search(("kept",)) == []
    shelf.put(("kept",), "a", {})
    return built("stored")
def of_shelf(shelf: Optional[BaseStore], config): return built(type(shelf).__name__)
def executes(config): return built(str(config["configurable"]["__is_for_execution__"]))
def ensures(runtime: ServerRuntime):
    execution = runtime.execution_runtime
    assert runtime.store is not None
    return built(f"{runtime.ensure_user().identity} {runtime.access_context} {execution is None}")
def unknown(config, other): return None
def exits(config): raise SystemExit(3)
"""


@pytest.mark.parametrize(
    "name",
    [
        "plain",
        "annotated",
        "as_text",
        "awaited",
        "unnamed",
        "optional",
        "entered",
        "entered_plainly",
        "yields",
        "of_runtime",
        "of_both",
    ],
)
async def test_a_factory_is_called_for_each_use(tmp_path: Path, name: str) -> None:
    entry = load(tmp_path, f"./mine.py:{name}", FACTORIES).get("g")
    assert entry is not None
    assert entry.factory is not None
    seen = sys.modules[entry.factory.function.__module__].seen
    assert seen == []
    for model in ("a", "b"):
        use = Use(
            access="threads.create_run",
            config={"configurable": {"model": model}},
            context={"model": model},
        )
        async with entry.opened(use) as graph:
            assert graph.name == model
            assert "left" not in seen[-1:]
    left = ["left"] if name in ("entered", "entered_plainly", "yields") else []
    assert seen == ["a", *left, "b", *left]


@pytest.mark.parametrize(
    ("name", "access", "made"),
    [
        ("of_caller", "threads.create_run", "annA"),
        ("of_user", "threads.read", "annA"),
        ("of_store", "threads.create_run", "stored"),
        ("of_shelf", "threads.read", "InMemoryStore"),
        ("executes", "threads.create_run", "True"),
        ("executes", "threads.read", "False"),
        ("ensures", "threads.create_run", "ann threads.create_run False"),
        ("ensures", "assistants.read", "ann assistants.read True"),
    ],
)
async def test_a_factory_is_given_what_its_parameters_ask_for(
    tmp_path: Path, name: str, access: Any, made: str
) -> None:
    """The caller is an object and a mapping, as on LangGraph's server; a store lasts for a use."""
    user = {"identity": "ann", "team": "A"}
    turn = TurnInput(
        turn_id="t", thread_key="acme/a", config={"configurable": {"langgraph_auth_user": user}}
    )
    entry = load(tmp_path, f"./mine.py:{name}", FACTORIES).get("g")
    assert entry is not None
    for _ in range(2):
        async with entry.opened(Use(access=access, config=turn.runnable_config())) as graph:
            assert graph.name == made


async def test_a_factory_that_needs_a_caller_is_told_that_there_is_none(tmp_path: Path) -> None:
    entry = load(tmp_path, "./mine.py:ensures", FACTORIES).get("g")
    assert entry is not None
    with pytest.raises(PermissionError, match="No authenticated user"):
        async with entry.opened(Use(access="assistants.read")):
            pass


async def test_a_factory_that_exits_is_an_error(tmp_path: Path) -> None:
    entry = load(tmp_path, "./mine.py:exits", FACTORIES).get("g")
    assert entry is not None
    with pytest.raises(RuntimeError, match="SystemExit"):
        async with entry.opened(Use(access="assistants.read")):
            pass


def test_a_factory_with_a_parameter_that_nobody_fills(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match="'other' is not known"):
        load(tmp_path, "./mine.py:unknown", FACTORIES)


def test_two_graphs_of_a_file_share_its_module(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(SOURCE)
    graphs = {"a": "./mine.py:graph", "b": "mine.py:graph"}
    (tmp_path / "langgraph.json").write_text(json.dumps({"graphs": graphs}))
    catalog = Catalog()
    catalog.load(tmp_path / "langgraph.json")
    first, second = catalog
    assert first.graph is second.graph


def test_a_brought_agent_goes_before_the_built_in_one(tmp_path: Path) -> None:
    built_in = GraphEntry(name=AGENT, native=True)
    catalog = Catalog()
    catalog.add_built_in(built_in)
    assert {entry.name: entry.native for entry in catalog} == {BUILT_IN: True, AGENT: True}
    (tmp_path / "mine.py").write_text(SOURCE)
    path = tmp_path / "langgraph.json"
    path.write_text(json.dumps({"graphs": {"agent": "./mine.py:graph"}}))
    catalog = Catalog()
    catalog.load(path)
    catalog.add_built_in(built_in)
    assert {entry.name: entry.native for entry in catalog} == {BUILT_IN: True, AGENT: False}
    path.write_text(json.dumps({"graphs": {BUILT_IN: "./mine.py:graph"}}))
    with pytest.raises(CatalogError, match="the built-in agent has this name"):
        Catalog().load(path)


STORED = """
from dataclasses import dataclass
from langgraph.graph import START, MessagesState, StateGraph
from pydantic import BaseModel
class Order(BaseModel):
    number: int
@dataclass
class Point:
    x: int
builder = StateGraph(MessagesState)
builder.add_node("node", lambda state: {})
builder.add_edge(START, "node")
graph = builder.compile()
"""


@pytest.mark.parametrize("to", ["beside", "deeper/agents", "renamed.py"])
def test_stored_values_come_back_after_the_folder_is_moved(tmp_path: Path, to: str) -> None:
    def brought(folder: Path, file: str) -> Any:
        (folder / "langgraph.json").write_text(json.dumps({"graphs": {"g": f"./{file}:graph"}}))
        Catalog().load(folder / "langgraph.json")
        return sys.modules[module_name(folder, folder / file)]

    first = tmp_path / "first"
    first.mkdir()
    (first / "stored.py").write_text(STORED)
    module, serializer = brought(first, "stored.py"), StateSerializer()
    kept = [serializer.dumps_typed(one) for one in (module.Order(number=7), module.Point(x=1))]
    for one in [one for one in sys.modules if one.startswith("turnstream_graph_")]:
        del sys.modules[one]  # a process that starts anew
    renamed = to.endswith(".py")
    second = tmp_path / ("second" if renamed else to)
    second.parent.mkdir(exist_ok=True, parents=True)
    shutil.move(first, second)
    if renamed:
        (second / "stored.py").rename(second / to)
    moved = brought(second, to if renamed else "stored.py")
    assert (moved.__name__ == module.__name__) is not renamed
    order, point = (serializer.loads_typed(one) for one in kept)
    assert (order, point) == (moved.Order(number=7), moved.Point(x=1))


def test_values_stored_under_names_of_older_versions_come_back(tmp_path: Path) -> None:
    load(tmp_path, "./mine.py:graph", STORED.replace("Order", "OldOrder"))
    entry_module = next(
        module
        for name, module in sys.modules.items()
        if name.startswith("turnstream_graph_") and "OldOrder" in vars(module)
    )
    old = type(entry_module.OldOrder)(
        "OldOrder", (entry_module.OldOrder,), {"__module__": "turnstream_graph_0123456789ab"}
    )
    serializer = StateSerializer()
    found = serializer.loads_typed(serializer.dumps_typed(old(number=3)))
    assert type(found) is entry_module.OldOrder
    assert found.number == 3


def configured(folder: Path, **content: Any) -> None:
    (folder / "mine.py").write_text(SOURCE)
    path = folder / "langgraph.json"
    path.write_text(json.dumps({"graphs": {"g": "./mine.py:graph"}, **content}))
    Catalog().load(path)


@pytest.mark.parametrize(
    "key", ["store", "auth", "http", "checkpointer", "ui", "webhooks", "nobody_knows_this"]
)
def test_what_is_not_built_is_refused_by_name(tmp_path: Path, key: str) -> None:
    with pytest.raises(CatalogError, match=f"{key!r} is not supported"):
        configured(tmp_path, **{key: {"path": "./mine.py:x"}})
    configured(tmp_path, **{key: None, "python_version": "3.11", "dockerfile_lines": []})


def test_env_of_a_file_or_an_object_is_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", {"TS_TEST_OPERATOR": "kept"})
    (tmp_path / "vars").write_text("TS_TEST_A='of the file'\nexport TS_TEST_OPERATOR=x\nEMPTY\n")
    configured(tmp_path, env="./vars")
    configured(tmp_path, env={"TS_TEST_B": "of the object", "TS_TEST_C": 7, "TS_TEST_D": True})
    assert os.environ == {
        "TS_TEST_A": "of the file",
        "TS_TEST_B": "of the object",
        "TS_TEST_C": "7",
        "TS_TEST_D": "true",
        "TS_TEST_OPERATOR": "kept",
    }
    for wrong, says in (("gone", "there is no file"), (7, "write a file"), ({"A": []}, "'A'")):
        with pytest.raises(CatalogError, match=says):
            configured(tmp_path, env=wrong)


def test_dependencies_are_folders_to_import_from_or_packages_that_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "lib" / "src").mkdir(parents=True)
    (tmp_path / "packages" / "nothing-1.2.dist-info").mkdir(parents=True)
    (tmp_path / "packages" / "nothing-1.2.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: nothing\nVersion: 1.2\n"
    )
    wanted = ["./lib", "./packages", "langgraph>=1", "nothing==1.2", "x; python_version < '3'"]
    configured(tmp_path, dependencies=wanted)
    assert {str(tmp_path / "lib"), str(tmp_path / "lib" / "src")} < set(sys.path)
    assert sys.path[-1] == str(tmp_path / "packages")  # what we run on is not replaced
    assert importlib.metadata.version("nothing") == "1.2"
    for wrong, says in (
        ("./gone", "there is no folder"),
        ("no-such-package-here", "is not installed; install it"),
        ("langgraph<0.1", "is installed; install it"),
        ("???", "neither a folder"),
    ):
        with pytest.raises(CatalogError, match=says):
            configured(tmp_path, dependencies=[wrong])
    with pytest.raises(CatalogError, match="write a list"):
        configured(tmp_path, dependencies="langgraph")


def test_an_assistant_is_found_by_its_graphs_name_and_by_its_id() -> None:
    catalog = Catalog()
    catalog.add_built_in(GraphEntry(name=AGENT, native=True))
    assert catalog.find(AGENT).name == AGENT
    assert catalog.find(assistant_id_of(BUILT_IN)).name == BUILT_IN
    with pytest.raises(NotFoundError, match=r"no assistant 'agnet'; there are: .*agent"):
        catalog.find("agnet")
