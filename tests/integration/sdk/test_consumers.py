"""Backends, auditors and UIs in Go and JavaScript, with libraries that are not ours."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import pytest

from tests.examples.other_languages import HERE, NODE, SCHEMAS, VECTORS, go_build, npm_ci, output
from tests.integration.sdk.conftest import GRAPHS, Service, running_edge

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

ANSWER = "I looked it up: Seoul has 9.4 million inhabitants."
SCHEMA_FILES = len(list(SCHEMAS.glob("*.avsc")))


@pytest.fixture
async def served(scene: Any) -> AsyncIterator[Service]:
    """A worker and an edge; the tenant `acme` has its results in JSON."""
    worker = scene.worker(langgraph_json=GRAPHS, json_result_tenants=("acme",))
    async with worker, running_edge(scene) as edge:
        yield Service(scene, edge)


def check(seen: dict[str, Any]) -> None:
    assert seen["vectors"] == [SCHEMA_FILES, SCHEMA_FILES]
    assert seen["json"]["status"] == seen["avro"]["status"] == "completed"
    assert seen["json"]["text"] == seen["avro"]["text"] != ""
    assert seen["question"] == "interrupted"
    assert (seen["answered"]["status"], seen["answered"]["text"]) == ("completed", ANSWER)
    assert seen["cancelled"] == "cancelled"
    log = seen["log"]
    assert log["unknown"] == 0
    assert log["records"] > 10
    assert log["types"]["AttemptStarted"] >= 2
    assert (log["text"], log["matches"]) == (seen["avro"]["text"], True)
    assert seen["socket"]["tokens"] == seen["socket"]["end"]["text"] == seen["json"]["text"]


@pytest.mark.skipif(shutil.which("go") is None, reason="no Go on the PATH")
async def test_go(served: Service, tmp_path: Path) -> None:
    program = go_build(tmp_path)
    seen = await output(
        str(program),
        *("-bootstrap", served.scene.settings.kafka_bootstrap, "-edge", served.ws),
        *("-prefix", served.scene.settings.topic_prefix),
        *("-schemas", str(SCHEMAS), "-vectors", str(VECTORS)),
        cwd=tmp_path,
    )
    check(seen)


async def test_javascript_with_results_in_json(served: Service, tmp_path: Path) -> None:
    npm_ci(HERE / "js", tmp_path)
    settings = served.scene.settings
    seen = await output(
        *(NODE, "main.mjs", settings.kafka_bootstrap, served.ws, str(SCHEMAS), str(VECTORS)),
        *(settings.topic_prefix, "acme"),
        cwd=tmp_path,
    )
    check(seen)
    assert seen["json"].keys() >= {"turn_id", "status", "usage", "interrupts", "lost_usage"}
    # our own readers read JSON results as well
    texts = {result.text for result in served.scene.results if result.tenant == "acme"}
    assert {seen["json"]["text"], ANSWER} <= texts
