"""No answer is a 5xx other than 501, whatever a client sends; the document names each status."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from turnstream.streams.edge.ask import pressure

# streams have no end of their own; the others' answers come at the run's end
STREAMS = "/chat/stream$|/stream/events$|/stream$"
# side by side, as processes: with threads of its own, schemathesis fails inside CPython's parser
PATHS = (
    r"^/threads/\{thread_id\}/runs",
    r"^/threads(?!/\{thread_id\}/runs)",
    r"^/(dead-letters|assistants|chat)",
    r"^/(?!threads|dead-letters|assistants|chat)",
)
# a method that an SDK uses and no route serves is a 501
CONFIG = """
[checks.not_a_server_error]
expected-statuses = ["2xx", "3xx", "4xx", "501"]
"""
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance"


async def _send(service: Any, folder: Path, paths: str) -> tuple[int | None, str]:
    """Run schemathesis over the operations whose path fits; its exit code and what it printed."""
    process = await asyncio.create_subprocess_exec(
        str(Path(sys.executable).with_name("st")),
        "--config-file=schemathesis.toml",
        "run",
        f"{service.url}/openapi.json",
        f"--checks={CHECKS}",
        f"--include-path-regex={paths}",
        f"--exclude-path-regex={STREAMS}",
        "--phases=examples,coverage,fuzzing",
        "--max-examples=2",
        "--seed=20261122",
        "--request-timeout=20",
        "--continue-on-failure",
        "--no-color",
        "--no-shrink",
        cwd=folder,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        out, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    return process.returncode, out.decode()[-12_000:]


@pytest.mark.timeout(400)
async def test_nothing_that_is_sent_breaks_the_edge(
    service: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # a machine that is busy is no database that does not answer
    monkeypatch.setattr(pressure, "CHECK_TIMEOUT_S", 60.0)
    (tmp_path / "schemathesis.toml").write_text(CONFIG)
    runs = [_send(service, tmp_path, paths) for paths in PATHS]
    for code, out in await asyncio.gather(*runs):
        assert code == 0, out


async def test_the_document_is_served(service: Any) -> None:
    async with aiohttp.ClientSession(service.url) as http:
        async with http.get("/openapi.json") as response:
            document = json.loads(await response.text())
        async with http.get("/docs") as response:
            assert response.status == 200
            page = await response.text()
        assert "//" not in re.sub(r"<!--.*?-->", "", page), (
            "the page asks another host for its parts"
        )
        kinds = {}
        for part in re.findall(r'(?:src|href)="([^"]+)"', page):
            async with http.get(part) as response:
                assert response.status == 200, part
                kinds[Path(part).suffix] = response.content_type
        assert kinds == {".js": "text/javascript", ".css": "text/css", ".png": "image/png"}
        assert not [path for path in document["paths"] if path.startswith(("/docs", "/static"))]
    for path in ("/threads/{thread_id}/runs/stream", "/chat", "/state", "/assistants/search"):
        assert path in document["paths"]
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            where = f"{method} {path}"
            assert operation.get("summary"), where
            assert "HTTPValidationError" not in json.dumps(operation), where
