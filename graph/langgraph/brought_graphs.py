"""Loads the graphs that a langgraph.json names."""

from __future__ import annotations

import asyncio
import hashlib
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from langgraph.graph.state import StateGraph
from langgraph.pregel import Pregel

from turnstream.graph.langgraph import langgraph_json
from turnstream.graph.langgraph.factories import WANTED, as_graph, factory_of
from turnstream.graph.langgraph.graph_modules import load_module
from turnstream.schemas.errors import CatalogError, GraphUnsupportedError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from turnstream.graph.langgraph.factories import AnyPregel, Factory


@dataclass(frozen=True, slots=True, kw_only=True)
class BroughtGraph:
    """A graph of a langgraph.json: compiled, or a function that makes it for each use.

    `digest` (hex) changes when the module or its reference does.
    """

    name: str
    description: str
    digest: str
    made: AnyPregel | Factory


def brought_graphs(path: Path, reserved: str) -> Iterator[BroughtGraph]:
    """Yield the graphs of a langgraph.json; none of them may have the `reserved` name.

    Raises `CatalogError` as `Catalog.load` does.
    """
    folder = path.resolve().parent
    for named in langgraph_json.read(path):
        where = f"{path}: graph {named.name!r} ({named.reference})"
        if named.name == reserved:
            raise CatalogError(f"{where}: the built-in agent has this name; give it another")
        value, source = _load(folder, named, where)
        reference = f"{named.reference}\n".encode()
        made: AnyPregel | Factory
        if callable(value) and not isinstance(value, Pregel | StateGraph):
            made = factory_of(value, where)
        else:
            made = _compiled(value, where)
        yield BroughtGraph(
            name=named.name,
            description=named.description,
            digest=hashlib.sha256(reference + source).hexdigest(),
            made=made,
        )


def _load(folder: Path, named: langgraph_json.NamedGraph, where: str) -> tuple[object, bytes]:
    try:
        module, source = load_module(folder, named.place, where)
    except (CatalogError, KeyboardInterrupt, asyncio.CancelledError):
        raise
    except BaseException as error:
        raise CatalogError(f"{where}: its module raises {described(error)}") from error
    if not hasattr(module, named.variable):
        raise CatalogError(
            f"{where}: the module has no {named.variable!r}; name the graph's variable"
        )
    return getattr(module, named.variable), source


def _compiled(value: object, where: str) -> AnyPregel:
    if not isinstance(value, Pregel | StateGraph):
        raise CatalogError(f"{where}: it is a {type(value).__name__}; it should be {WANTED}")
    try:
        return as_graph(value)
    except GraphUnsupportedError as error:
        raise CatalogError(f"{where}: {error}") from error
    except Exception as error:
        raise CatalogError(f"{where}: it cannot be compiled: {described(error)}") from error


def described(error: BaseException) -> str:
    """Return an error's class and text, and the line of the graph's code that raised it."""
    return f"{type(error).__name__}: {error}{line_of(error)}"


def line_of(error: BaseException) -> str:
    """Return ` (file:line)` of where the graph's own code raised an error, "" if it is unknown."""
    if isinstance(error, SyntaxError) and error.filename:
        return f" ({error.filename}:{error.lineno})"
    ours = str(Path(__file__).parents[1])
    brought = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith((ours, "<"))
        and "site-packages" not in frame.filename
        and "/lib/python" not in frame.filename
    ]
    return f" ({brought[-1].filename}:{brought[-1].lineno})" if brought else ""
