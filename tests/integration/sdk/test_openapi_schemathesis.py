"""Whatever a client sends, no answer is a 5xx, and every answer is one that the document names."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import aiohttp
import pytest

# streams have no end of their own; the others' answers come at the run's end
STREAMS = "/chat/stream$|/stream/events$|/stream$"
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance"


@pytest.mark.timeout(400)
async def test_nothing_that_is_sent_breaks_the_edge(service: Any, tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        str(Path(sys.executable).with_name("st")),
        "run",
        f"{service.url}/openapi.json",
        f"--checks={CHECKS}",
        f"--exclude-path-regex={STREAMS}",
        "--phases=examples,coverage,fuzzing",
        "--max-examples=4",
        "--seed=20261122",
        "--request-timeout=20",
        "--continue-on-failure",
        "--no-color",
        "--no-shrink",
        cwd=tmp_path,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        out, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    assert process.returncode == 0, out.decode()[-12_000:]


async def test_the_document_is_served(service: Any) -> None:
    async with aiohttp.ClientSession(service.url) as http:
        async with http.get("/openapi.json") as response:
            document = json.loads(await response.text())
        async with http.get("/docs") as response:
            assert response.status == 200
    for path in ("/threads/{thread_id}/runs/stream", "/chat", "/state", "/assistants/search"):
        assert path in document["paths"]
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            where = f"{method} {path}"
            assert operation.get("summary"), where
            assert "HTTPValidationError" not in json.dumps(operation), where
