"""The oldest Python SDK that speaks the thread protocol, in an environment of its own."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

# 0.3.15 has no `threads.stream`
OLDEST = "langgraph-sdk==0.4.0"
SCRIPT = Path(__file__).with_name("oldest_conversation.py")
UV = Path(sys.executable).with_name("uv")


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment that has the old SDK and what it needs."""
    folder = tmp_path_factory.mktemp("oldest") / "venv"
    made = folder / "bin" / "python"
    for command in (
        [UV, "venv", "--python", sys.executable, folder],
        [UV, "pip", "install", "--python", made, OLDEST],
    ):
        done = subprocess.run(command, capture_output=True, timeout=240, check=False)
        assert done.returncode == 0, done.stderr.decode()[-4000:]
    return made


async def test_a_conversation(python: Path, service: Any) -> None:
    process = await asyncio.create_subprocess_exec(
        str(python),
        str(SCRIPT),
        service.url,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        out, errors = await asyncio.wait_for(process.communicate(), 120)
    finally:
        if process.returncode is None:
            process.kill()
    assert process.returncode == 0, errors.decode()[-4000:]
    seen = json.loads(out)
    assert seen["runs"] == {
        "types": ["human", "ai", "tool", "ai"],
        "streamed": True,
        "created": True,
        "answer": "I looked it up: Seoul has 9.4 million inhabitants.",
        "cancelled": "interrupted",
        "state": [],
    }
    for transport in ("sse", "websocket"):
        assert seen[transport]["texts"] == [seen[transport]["final"]]
        assert seen[transport]["final"]
