"""The graphs that this process serves: the built-in agent and those that langgraph.json names."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from turnstream.graph.langgraph.brought_graphs import (
    brought_graphs,
    described,
    line_of,
)
from turnstream.graph.langgraph.factories import Factory, Use
from turnstream.graph.langgraph.last_checkpoint import ends_after
from turnstream.schemas.errors import CatalogError, GraphUnsupportedError, NotFoundError
from turnstream.schemas.ids import assistant_id_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping
    from pathlib import Path

    from langgraph.checkpoint.base import BaseCheckpointSaver, Checkpoint

    from turnstream.graph.langgraph.factories import AnyPregel
    from turnstream.graph.ports.commits import Commits
    from turnstream.graph.ports.emitter import Emitter
    from turnstream.graph.run.input import TurnInput

AGENT = "agent"
BUILT_IN = "turnstream-agent"
"""Name under which the built-in agent is always there; as `agent` where no graph is brought so."""


@dataclass(eq=False, slots=True, kw_only=True)
class GraphEntry:
    """A graph under its name; `hash` (hex) changes when its code does.

    Has either `graph` or `factory`. `native`: its nodes emit themselves, into the context that
    `make_context` gives them.
    """

    name: str
    graph: AnyPregel | None = None
    factory: Factory | None = None
    native: bool = False
    hash: str = ""
    description: str = ""
    make_context: Callable[[Emitter, TurnInput, Commits], object] | None = None
    _is_last: Callable[[Checkpoint], bool] | None = field(default=None, init=False)
    _bound: AnyPregel | None = field(default=None, init=False)

    def with_saver(self, saver: BaseCheckpointSaver[str]) -> AnyPregel:
        """Return the graph with this checkpointer; the same object for the same saver."""
        if self._bound is None or self._bound.checkpointer is not saver:
            if self.graph is None:
                raise TypeError(f"graph {self.name!r} is made for each use")
            self._bound = self.graph.copy(update={"checkpointer": saver})
        return self._bound

    @asynccontextmanager
    async def opened(
        self, use: Use, saver: BaseCheckpointSaver[str] | None = None
    ) -> AsyncIterator[AnyPregel]:
        """Give the graph for one use, with this checkpointer if there is one.

        Raises whatever a factory raises, and `GraphUnsupportedError` for what it gives.
        """
        if self.factory is None:
            assert self.graph is not None  # noqa: S101  one of the two
            yield self.graph if saver is None else self.with_saver(saver)
            return
        async with self.factory.made(use) as graph:
            yield graph if saver is None else graph.copy(update={"checkpointer": saver})

    def is_last_of(self, graph: AnyPregel) -> Callable[[Checkpoint], bool]:
        """Return the test whether nothing runs after a root checkpoint of this entry's graph."""
        if self.factory is not None:
            return ends_after(graph)
        if self._is_last is None:
            self._is_last = ends_after(graph)
        return self._is_last


class Catalog:
    """Graph entries by name."""

    def __init__(self, entries: Mapping[str, GraphEntry] | None = None) -> None:
        self._entries = dict(entries or {})

    def add(self, entry: GraphEntry) -> None:
        """Add an entry; raises `CatalogError` if the name is taken."""
        if entry.name in self._entries:
            raise CatalogError(f"graph {entry.name!r} is there already; give it another name")
        self._entries[entry.name] = entry

    def add_built_in(self, entry: GraphEntry) -> None:
        """Add the built-in agent, as `agent` too where no graph was brought under that name."""
        self.add(replace(entry, name=BUILT_IN))
        if AGENT not in self:
            self.add(replace(entry, name=AGENT))

    def get(self, name: str) -> GraphEntry | None:
        """Return the entry of this name."""
        return self._entries.get(name)

    def find(self, assistant_id: str) -> GraphEntry:
        """Return the entry of an assistant: its graph's name, or the id made of the name.

        Raises `NotFoundError` (`assistant_not_found`).
        """
        for entry in self:
            if assistant_id in (entry.name, assistant_id_of(entry.name)):
                return entry
        raise NotFoundError(
            f"there is no assistant {assistant_id[:100]!r}; there are: {', '.join(self.names)}",
            code="assistant_not_found",
        )

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[GraphEntry]:
        return iter(self._entries.values())

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names in the order in which they were added."""
        return tuple(self._entries)

    def load(self, path: Path) -> None:
        """Add the graphs of a langgraph.json, in the form that the LangGraph CLI reads.

        `graphs` maps a name to `./file.py:variable`, `package.module:variable` or an object with
        such a `path`. The variable is a compiled graph, a `StateGraph`, or a function that returns
        one and is called for each use. Raises `CatalogError` that names the entry and what to
        change, with file and line where the graph's own code fails.
        """
        for brought in brought_graphs(path, BUILT_IN):
            made = brought.made
            self.add(
                GraphEntry(
                    name=brought.name,
                    graph=None if isinstance(made, Factory) else made,
                    factory=made if isinstance(made, Factory) else None,
                    hash=brought.digest,
                    description=brought.description,
                )
            )

    async def probe(self) -> list[str]:
        """Call each factory without a run's config; return a line for each that lacks a key of it.

        Raises `CatalogError` for any other error of a factory.
        """
        lacking = []
        for entry in self:
            try:
                async with entry.opened(Use(access="assistants.read")):
                    pass
            except GraphUnsupportedError as error:
                raise CatalogError(f"graph {entry.name!r}: {error}") from error
            except KeyError as error:
                lacking.append(f"{entry.name} needs {error} in its config{line_of(error)}")
            except (Exception, SystemExit) as error:
                raise CatalogError(
                    f"graph {entry.name!r}: the function raises {described(error)}"
                ) from error
        return lacking
