"""The graphs that this process serves: the built-in agent and those that langgraph.json names."""

from __future__ import annotations

import asyncio
import hashlib
import importlib
import importlib.util
import inspect
import json
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from langgraph.graph.state import StateGraph
from langgraph.pregel import Pregel

from turnstream.graph.ending import ends_after
from turnstream.schemas.errors import CatalogError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from types import ModuleType

    from langgraph.checkpoint.base import BaseCheckpointSaver

    from turnstream.graph.ports import Commits, Emitter
    from turnstream.graph.turn_input import TurnInput

EXAMPLE = '{"graphs": {"name": "./file.py:graph"}}'


@dataclass(eq=False, slots=True, kw_only=True)
class GraphEntry:
    """A graph under its name; `hash` (hex) changes when its code does.

    `native`: its nodes emit themselves, into the context that `make_context` gives them.
    """

    name: str
    graph: Pregel[Any, Any, Any, Any]
    native: bool = False
    hash: str = ""
    description: str = ""
    make_context: Callable[[Emitter, TurnInput, Commits], Any] | None = None
    is_last: Callable[[Any], bool] = field(init=False)
    _bound: Pregel[Any, Any, Any, Any] | None = None

    def __post_init__(self) -> None:
        self.is_last = ends_after(self.graph)

    def with_saver(self, saver: BaseCheckpointSaver[str]) -> Pregel[Any, Any, Any, Any]:
        """Return the graph with this checkpointer; the same object for the same saver."""
        if self._bound is None or self._bound.checkpointer is not saver:
            self._bound = self.graph.copy(update={"checkpointer": saver})
        return self._bound


class Catalog:
    """Graph entries by name."""

    def __init__(self, entries: Mapping[str, GraphEntry] | None = None) -> None:
        self._entries = dict(entries or {})

    def add(self, entry: GraphEntry) -> None:
        """Add an entry; raises `CatalogError` if the name is taken."""
        if entry.name in self._entries:
            raise CatalogError(f"graph {entry.name!r} is there already; give it another name")
        self._entries[entry.name] = entry

    def get(self, name: str) -> GraphEntry | None:
        """Return the entry of this name."""
        return self._entries.get(name)

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[GraphEntry]:
        return iter(self._entries.values())

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names in the order in which they were added."""
        return tuple(self._entries)

    def load(self, langgraph_json: Path) -> None:
        """Add the graphs of a langgraph.json, in the form that the LangGraph CLI reads.

        `graphs` maps a name to `./file.py:variable`, `package.module:variable` or an object with
        such a `path`. The variable is a compiled graph, a `StateGraph`, or a function that returns
        one. Raises `CatalogError` that names the entry and what to change.
        """
        folder = langgraph_json.resolve().parent
        for name, (reference, description) in _graphs_of(langgraph_json).items():
            where = f"{langgraph_json}: graph {name!r} ({reference})"
            graph, source = _load(folder, reference, where)
            _check(graph, where)
            digest = hashlib.sha256(f"{reference}\n".encode() + source).hexdigest()
            self.add(GraphEntry(name=name, graph=graph, hash=digest, description=description))


def _graphs_of(path: Path) -> dict[str, tuple[str, str]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CatalogError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise CatalogError(f"{path} is not JSON: {error}") from error
    graphs = content.get("graphs") if isinstance(content, dict) else None
    if not isinstance(graphs, dict) or not graphs:
        raise CatalogError(f"{path} names no graphs; it should look like {EXAMPLE}")
    for folder in content.get("dependencies") or ():
        if isinstance(folder, str) and folder.startswith("."):
            _add_to_path(path.resolve().parent / folder)
    found = {}
    for name, value in graphs.items():
        reference = value.get("path") if isinstance(value, dict) else value
        if not isinstance(reference, str) or ":" not in reference:
            raise CatalogError(
                f"{path}: graph {name!r} is {reference!r}; write it as './file.py:variable'"
            )
        description = value.get("description", "") if isinstance(value, dict) else ""
        found[name] = (reference, str(description))
    return found


def _load(folder: Path, reference: str, where: str) -> tuple[Pregel[Any, Any, Any, Any], bytes]:
    place, _, variable = reference.rpartition(":")
    try:
        module, source = _module(folder, place, where)
    except CatalogError:
        raise
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        raise CatalogError(f"{where}: its module raises {type(error).__name__}: {error}") from error
    if not hasattr(module, variable):
        raise CatalogError(f"{where}: the module has no {variable!r}; name the graph's variable")
    return _graph(getattr(module, variable), where), source


def _module(folder: Path, place: str, where: str) -> tuple[ModuleType, bytes]:
    if not place.endswith(".py"):
        _add_to_path(folder)
        module = importlib.import_module(place)
        return module, Path(module.__file__ or "").read_bytes() if module.__file__ else b""
    file = (folder / place).resolve()
    if not file.is_file():
        raise CatalogError(f"{where}: there is no file {file}")
    _add_to_path(file.parent)
    # named after its place, so that two files of one name do not meet
    name = f"turnstream_graph_{hashlib.sha256(str(file).encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise CatalogError(f"{where}: {file} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module, file.read_bytes()


def _graph(value: Any, where: str) -> Pregel[Any, Any, Any, Any]:
    if callable(value) and not isinstance(value, (Pregel, StateGraph)):
        value = _call(value, where)
    if isinstance(value, StateGraph):
        value = value.compile()
    if not isinstance(value, Pregel):
        raise CatalogError(
            f"{where}: it is a {type(value).__name__}; it should be a compiled graph, a StateGraph"
            " or a function that returns one"
        )
    return value


def _call(factory: Callable[..., Any], where: str) -> Any:
    try:
        wants = [
            parameter
            for parameter in inspect.signature(factory).parameters.values()
            if parameter.default is parameter.empty
            and parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
        ]
        made = factory({"configurable": {}}) if wants else factory()
        return _run_apart(made) if inspect.isawaitable(made) else made
    except Exception as error:
        raise CatalogError(
            f"{where}: the function raises {type(error).__name__}: {error}"
        ) from error


def _run_apart(made: Any) -> Any:
    """Run an asynchronous factory in a loop of its own: the caller may be inside of one."""
    results: list[Any] = []

    async def wait() -> Any:
        return await made

    def run() -> None:
        try:
            results.append(asyncio.run(wait()))
        except BaseException as error:  # noqa: BLE001  raised below, in the caller's thread
            results.append(error)

    thread = threading.Thread(target=run, name="graph-factory")
    thread.start()
    thread.join()
    if isinstance(results[0], BaseException):
        raise results[0]
    return results[0]


def _check(graph: Pregel[Any, Any, Any, Any], where: str) -> None:
    """Refuse what cannot run here, and mend what can be mended."""
    if graph.interrupt_before_nodes or graph.interrupt_after_nodes:
        raise CatalogError(
            f"{where}: interrupt_before and interrupt_after have no id that an answer could name;"
            " call interrupt() in the node"
        )
    _let_subgraphs_inherit(graph)


def _let_subgraphs_inherit(graph: Pregel[Any, Any, Any, Any]) -> None:
    """Give subgraphs compiled with `checkpointer=False` their parent's.

    langgraph 1.2 fails on them under durability "sync" (`_put_checkpoint_fut`). `get_subgraphs`
    does not list them, so they are looked up where a node holds them. One that a node calls in its
    own code is not found: its turn fails with code `graph_unsupported`.
    """
    for node in graph.nodes.values():
        inner = node.bound
        if isinstance(inner, Pregel):
            if inner.checkpointer is False:
                inner.checkpointer = None
            _let_subgraphs_inherit(inner)


def _add_to_path(folder: Path) -> None:
    if str(folder.resolve()) not in sys.path:
        sys.path.insert(0, str(folder.resolve()))
