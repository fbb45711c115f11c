"""The whole service, real: Kafka, Postgres, a worker, an edge, a scripted model, a graph."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from turnstream.streams.app.edge import open_edge

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from turnstream.streams.edge.server.process import Edge

GRAPHS = Path(__file__).parents[2] / "examples" / "graphs" / "langgraph.json"

ASKING = Path(__file__).parents[1] / "graphs" / "asking.json"

COMPARED = Path(__file__).parent / "differential" / "graphs" / "langgraph.json"

# what a start answers is read on a busy machine too; who wants 202 sets less
START_WAIT_S = 60.0


class Service:
    """A service that runs."""

    def __init__(self, scene: Any, edge: Edge) -> None:
        self.scene = scene
        self.edge = edge
        self.url = f"http://127.0.0.1:{edge.port}"
        self.ws = f"ws://127.0.0.1:{edge.port}"


@asynccontextmanager
async def running_edge(scene: Any, **changes: Any) -> AsyncIterator[Edge]:
    settings = scene.settings.model_copy(
        update={
            "edge_port": 0,
            "edge_fetch_wait_ms": 50,
            "edge_start_wait_s": START_WAIT_S,
            "langgraph_json": GRAPHS,
            **changes,
        }
    )
    async with open_edge(settings) as edge:
        running = asyncio.create_task(edge.run())
        try:
            await scene.until(lambda: running.done() or edge.context.feed.log.ready.is_set())
            if running.done():
                running.result()
            yield edge
        finally:
            edge.stop()
            async with asyncio.timeout(60):
                await running


@pytest.fixture
async def service(scene: Any) -> AsyncIterator[Service]:
    """A worker and an edge that serve the sample graph and the built-in agent."""
    async with scene.worker(langgraph_json=GRAPHS), running_edge(scene) as edge:
        yield Service(scene, edge)


@pytest.fixture
async def asking(scene: Any) -> AsyncIterator[Service]:
    """A worker and an edge that serve graphs that ask."""
    async with (
        scene.worker(langgraph_json=ASKING),
        running_edge(scene, langgraph_json=ASKING) as edge,
    ):
        yield Service(scene, edge)


@pytest.fixture
async def comparable(scene: Any) -> AsyncIterator[Service]:
    """A worker and an edge that serve the graphs that are run on LangGraph as well."""
    async with (
        scene.worker(langgraph_json=COMPARED),
        running_edge(scene, langgraph_json=COMPARED) as edge,
    ):
        yield Service(scene, edge)


@pytest.fixture
async def edge_alone(scene: Any) -> AsyncIterator[Service]:
    """An edge and no worker: what is started stays pending."""
    async with running_edge(scene, edge_start_wait_s=0.2) as edge:
        yield Service(scene, edge)
