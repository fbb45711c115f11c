"""Names of the chat completions API are known in one room, and to the scripted server."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
TOPS = ("schemas", "connectors", "graph", "streams", "deploy/local")
ROOM = "connectors/models/openai"
SERVER = "deploy/local/scripted"
WIRE = frozenset({
    "/chat/completions",
    "choices",
    "completion_tokens",
    "completion_tokens_details",
    "function",
    "function_call",
    "include_usage",
    "prompt_tokens",
    "prompt_tokens_details",
    "stream_options",
})  # fmt: skip
"""Names that nothing but the API has."""
TURNS = frozenset({"role", "content"})
"""Keys of a message in the API. LangGraph's input has them too."""
INPUTS = {
    "graph/run/input.py": "the input of a turn, as LangGraph takes it",
    "streams/client/terminal.py": "the input of a run, as the Agent Protocol takes it",
}


def names_of(tree: ast.AST) -> set[str]:
    """Names of the API that a module holds: in strings and in literal dictionaries."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and node.value in WIRE:
            found.add(node.value)
        elif isinstance(node, ast.Dict):
            keys = {key.value for key in node.keys if isinstance(key, ast.Constant)}
            if keys >= TURNS:
                found |= TURNS
    return found


def modules() -> dict[str, ast.AST]:
    return {
        str(path.relative_to(ROOT)): ast.parse(path.read_text())
        for top in TOPS
        for path in sorted((ROOT / top).rglob("*.py"))
    }


def test_no_other_room_knows_a_name_of_the_api():
    known = {
        path: names
        for path, tree in modules().items()
        if not path.startswith((ROOM, SERVER)) and (names := names_of(tree))
    }
    assert known == dict.fromkeys(INPUTS, TURNS)


def test_the_room_knows_every_one_of_them():
    known = set().union(*(names_of(tree) for path, tree in modules().items() if ROOM in path))
    assert known >= TURNS | WIRE - {"choices", "function_call"}  # fields of the chunks' types


def test_the_agent_imports_no_client_of_a_model():
    for path, tree in modules().items():
        if path.startswith(("graph", "schemas")):
            for node in ast.walk(tree):
                if isinstance(node, ast.ImportFrom):
                    assert not (node.module or "").startswith("turnstream.connectors"), path


@pytest.mark.parametrize(
    ("code", "names"),
    [
        ('{"role": "user", "content": "x"}', TURNS),
        ('{"role": "user"}', set()),
        ('body["stream_options"] = 1', {"stream_options"}),
        ('kind = "tool_calls"', set()),
    ],
)
def test_a_name_is_found(code, names):
    assert names_of(ast.parse(code)) == names
