"""The stock JavaScript SDK against the whole service, as packages from npm."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest

from tests.examples.other_languages import NODE, npm_ci, output

FOLDER = Path(__file__).parents[2] / "sdk_js"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package with what its lock file names."""
    made = tmp_path_factory.mktemp("sdk_js")
    npm_ci(FOLDER, made)
    return made


@pytest.mark.parametrize("sdk", ["@langchain/langgraph-sdk", "langgraph-sdk-2"])
async def test_a_conversation(service: Any, folder: Path, sdk: str) -> None:
    seen = await run(folder, "conversation.mjs", sdk, service.url)
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


async def test_the_example_of_the_page_for_clients(service: Any, folder: Path) -> None:
    page = (FOLDER.parents[1] / "docs/clients.md").read_text()
    (example,) = re.findall(r"^```js\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    (folder / "example.mjs").write_text(example.replace("http://127.0.0.1:8123", service.url))
    process = await asyncio.create_subprocess_exec(
        NODE, "example.mjs", cwd=folder, stdout=asyncio.subprocess.PIPE
    )
    shown, _ = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0
    assert shown.strip()


@pytest.mark.parametrize("transport", ["sse", "websocket"])
async def test_thread_streams(service: Any, folder: Path, transport: str) -> None:
    """Turns so quick that they are over before the SDK has opened a stream, and slow ones."""
    seen = await run(folder, "threads.mjs", transport, service.url)
    assert seen["tools"] == {
        "said": True,
        "called": [["current_time", {"zone": "Asia/Seoul"}, "Asia/Seoul"]],
        "types": ["human", "ai", "tool", "ai"],
        "output": True,
        "run": "success",
    }
    assert seen["turns"] == [[1, True, 6], [1, True, 8], [1, True, 10]]
    assert seen["early"] == [1, True]
    assert seen["interrupts"] == {
        "interrupted": ["human", "ai"],
        "question": "May I call population?",
        "approved": True,
        "answer": "I looked it up: Seoul has 9.4 million inhabitants.",
        "custom": [{"progress": "answering"}],
        "left": 0,
    }
    assert seen["cancels"] == {"kept": True, "run": "interrupted"}


@pytest.mark.parametrize("transport", ["sse", "websocket"])
async def test_what_use_stream_stands_on(service: Any, folder: Path, transport: str) -> None:
    seen = await run(folder, "controller.mjs", transport, service.url)
    assert seen == {
        "conversation": {
            "types": ["human", "ai", "tool", "ai"],
            "tools": [["current_time", "finished"]],
            "error": None,
            "ends": ["success", "success"],
        },
        "reload": {"hydrated": 6, "error": None},
        "interrupts": {
            "question": "May I call population?",
            "answer": "I looked it up: Seoul has 9.4 million inhabitants.",
            "left": 0,
            "ends": ["interrupt"],
        },
        "watches": {"asked": 1, "early": True, "works": True},
        "stops": "interrupted",
    }


async def run(folder: Path, *command: str) -> dict[str, Any]:
    """Run a script; return the object that it prints."""
    return await output(NODE, *command, cwd=folder)
