"""Assistants: the graphs that this deployment serves, each under its name.

An assistant's id is derived from the name as in LangGraph's server; every route takes either.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from operator import itemgetter
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Query

from turnstream.graph.langgraph.factories import Use
from turnstream.graph.langgraph.reading import cannot_be_made
from turnstream.schemas.errors import TurnstreamError
from turnstream.streams.edge.routes.bodies import AssistantFilter, AssistantSearch, Id
from turnstream.streams.edge.routes.deps import Caller, JsonAnswer, Rest, answers
from turnstream.streams.edge.routes.present import assistant_json, selected
from turnstream.streams.edge.routes.reading import JsonRoute
from turnstream.streams.edge.routes.shapes import Assistant, GraphDrawing, GraphSchemas

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from turnstream.graph.langgraph.catalog import GraphEntry
    from turnstream.graph.langgraph.factories import AnyPregel

router = APIRouter(tags=["assistants"], route_class=JsonRoute)


@router.post(
    "/assistants/search", responses=answers(list[Assistant], "the assistants"), summary="Search"
)
async def search(rest: Caller, body: AssistantSearch | None = None) -> JsonAnswer:
    """Return the assistants for which all conditions hold."""
    body = body or AssistantSearch()
    found = [assistant for assistant in _all(rest) if _matches(assistant, body)]
    if body.sort_by:
        found.sort(key=itemgetter(body.sort_by), reverse=body.sort_order == "desc")
    start = body.offset or 0
    page = found[start : start + (body.limit or 10)]
    return JsonAnswer([selected(assistant, body.select) for assistant in page])


@router.post("/assistants/count", responses=answers(int, "how many"), summary="Count")
async def count(rest: Caller, body: AssistantFilter | None = None) -> JsonAnswer:
    """Return how many assistants there are for which all conditions hold."""
    conditions = body or AssistantFilter()
    return JsonAnswer(sum(_matches(assistant, conditions) for assistant in _all(rest)))


@router.get(
    "/assistants/{assistant_id}", responses=answers(Assistant, "the assistant"), summary="Get"
)
async def get(rest: Caller, assistant_id: Id) -> JsonAnswer:
    """Return an assistant by its id or its graph's name."""
    entry = rest.edge.catalog.find(assistant_id)
    return JsonAnswer(assistant_json(entry.name, entry.description))


@router.get(
    "/assistants/{assistant_id}/graph", responses=answers(GraphDrawing, "its nodes"), summary="Draw"
)
async def graph(
    rest: Caller, assistant_id: Id, xray: Annotated[bool | int, Query()] = False
) -> JsonAnswer:
    """Return an assistant's nodes and edges; `xray` shows nested graphs (to a depth)."""
    depth = min(xray, 16) if not isinstance(xray, bool) else xray
    async with _opened(rest.edge.catalog.find(assistant_id)) as made:
        drawing = await made.aget_graph(xray=depth)
    return JsonAnswer(drawing.to_json())


@router.get("/assistants/{assistant_id}/schemas", responses=answers(GraphSchemas, "its schemas"))
async def schemas(rest: Caller, assistant_id: Id) -> JsonAnswer:
    """Return an assistant's JSON schemas."""
    entry = rest.edge.catalog.find(assistant_id)
    async with _opened(entry) as made:
        return JsonAnswer(_schemas_of(entry.name, made))


@router.get("/assistants/{assistant_id}/subgraphs", responses=answers(dict[str, Any], "by node"))
async def subgraphs(
    rest: Caller, assistant_id: Id, recurse: Annotated[bool, Query()] = False
) -> JsonAnswer:
    """Return the schemas of an assistant's nested graphs, by namespace."""
    entry = rest.edge.catalog.find(assistant_id)
    async with _opened(entry) as made:
        nested = [pair async for pair in made.aget_subgraphs(recurse=recurse)]
        return JsonAnswer({name: _schemas_of(entry.name, inner) for name, inner in nested})


@asynccontextmanager
async def _opened(entry: GraphEntry) -> AsyncIterator[AnyPregel]:
    """Open an assistant's graph; raises `ConflictError` if its factory fails."""
    try:
        async with entry.opened(Use(access="assistants.read")) as made:
            yield made
    except TurnstreamError:
        raise
    except Exception as error:
        raise cannot_be_made(entry, error) from error


def _all(rest: Rest) -> list[dict[str, object]]:
    return [assistant_json(entry.name, entry.description) for entry in rest.edge.catalog]


def _matches(assistant: Mapping[str, object], body: AssistantFilter) -> bool:
    if body.graph_id and assistant["graph_id"] != body.graph_id:
        return False
    if body.name and body.name.lower() not in str(assistant["name"]).lower():
        return False
    metadata = assistant["metadata"]
    own = metadata if isinstance(metadata, dict) else {}
    return all(own.get(key) == value for key, value in (body.metadata or {}).items())


def _schemas_of(name: str, graph: object) -> dict[str, object]:
    output = _schema(graph, "get_output_jsonschema")
    return {
        "graph_id": name,
        "input_schema": _schema(graph, "get_input_jsonschema"),
        "output_schema": output,
        "state_schema": output,
        "config_schema": None,
        "context_schema": _schema(graph, "get_context_jsonschema"),
    }


def _schema(graph: object, method: str) -> object:
    """Return a schema of a graph, None if its types have none."""
    make = getattr(graph, method, None)
    try:
        return make() if callable(make) else None
    except Exception:  # noqa: BLE001  pydantic raises anything for foreign types
        return None
