"""langgraph.json: what is loaded, and what each mistake is told."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from turnstream.graph.catalog import Catalog
from turnstream.schemas.errors import CatalogError

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
    assert await entry.graph.ainvoke({"x": 1}) == {"x": 2}
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
        ("./mine.py:broken", "the function raises RuntimeError: no key"),
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
    with pytest.raises(CatalogError, match="its module raises SyntaxError"):
        load(tmp_path, "./mine.py:graph", "def")


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
