"""The house: which folders there are, how full they are, and who may touch private names."""

from __future__ import annotations

import ast
import re
import tomllib
from collections import Counter, defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TOPS = ("schemas", "connectors", "graph", "streams", "deploy/local")
MODULES_MAX = 20
ENDINGS = re.compile(r"(?:ings?|ed|ers?|es|s)$")

PRIVATE = {
    "aiokafka": "connectors/kafka/wire",
    "langgraph": "graph/langgraph",
    "langgraph.checkpoint": "connectors/postgres/checkpoints",
}
"""The room that may use a library's private names."""

OWN = {
    "connectors/kafka/read/inbox.py": "two classes of one module",
    "streams/process/loop_watch.py": "`sys._current_frames` is documented",
}
"""Modules that use other private names, and whose."""


def modules() -> list[Path]:
    """Every module of the product."""
    return sorted(
        path.relative_to(ROOT)
        for top in TOPS
        for path in (ROOT / top).rglob("*.py")
        if path.name != "__init__.py"
    )


ROOMS: dict[str, list[Path]] = defaultdict(list)
for _module in modules():
    ROOMS[str(_module.parent)].append(_module)


def test_the_packages_are_the_folders():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    told = project["tool"]["setuptools"]["packages"]
    there = {
        "turnstream." + ".".join(path.parent.relative_to(ROOT).parts)
        for top in TOPS
        for path in (ROOT / top).rglob("*.py")
    }
    assert told == sorted(there)


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_is_not_too_full(room):
    assert len(ROOMS[room]) <= MODULES_MAX


@pytest.mark.parametrize("room", ROOMS)
def test_names_in_a_room_differ_by_more_than_an_ending(room):
    stems: dict[str, str] = {}
    for path in ROOMS[room]:
        stem = ENDINGS.sub("", path.stem)
        assert stem not in stems, f"{room}: {path.stem} and {stems[stem]}"
        stems[stem] = path.stem


def test_the_architecture_names_every_room_and_no_other():
    told = re.findall(r"^\| `([a-z_/]+)` \|", section("Rooms"), re.MULTILINE)
    assert told == sorted(set(told), key=told.index), "a room is named twice"
    assert set(told) == {*ROOMS, "streams/edge"}


def test_the_architecture_says_why_a_name_stands_in_two_rooms():
    count = Counter(path.name for path in modules())
    told = set(re.findall(r"`(\w+\.py)`", section("Rooms").split("Some names")[1]))
    assert told == {name for name, rooms in count.items() if rooms > 1}


def section(name: str) -> str:
    """A section of ARCHITECTURE.md."""
    return (ROOT / "ARCHITECTURE.md").read_text().split(f"\n## {name}\n")[1].split("\n## ")[0]


def test_private_names_are_used_in_one_room_each():
    """By what the syntax trees tell, and by what ruff had to be told."""
    strangers = [
        f"{path}:{line}: {what}"
        for path in modules()
        for what, line in private_names(ast.parse((ROOT / path).read_text()))
        if not path.is_relative_to(PRIVATE.get(library(what), ""))
    ]
    assert not strangers, "\n".join(strangers)
    for path in modules():
        if any(path.is_relative_to(room) for room in PRIVATE.values()) or str(path) in OWN:
            continue
        assert "noqa: SLF001" not in (ROOT / path).read_text(), path


def library(name: str) -> str:
    """The library of a name: the longest of `PRIVATE` that begins it, "" for none of them."""
    fits = [one for one in PRIVATE if f"{name}.".startswith(f"{one}.")]
    return max(fits, key=len, default="")


def private_names(tree: ast.AST):
    """Yield each private name of the libraries in `PRIVATE`, whole, with its line.

    A private module or name that is imported, and a private attribute of anything that came from
    such a library by an import.
    """
    origin: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and library(node.module):
            for name in node.names:
                whole = f"{node.module}.{name.name}"
                origin[name.asname or name.name] = whole
                if any(part.startswith("_") for part in whole.split(".")):
                    yield whole, node.lineno
        elif isinstance(node, ast.Import):
            for name in node.names:
                if library(name.name):
                    origin[name.asname or name.name.split(".")[0]] = name.name
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and node.attr[1:2] != "_":
            root = ast.unparse(node.value).split(".")[0]
            if root in origin:
                yield f"{origin[root]}.{node.attr}", node.lineno


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("from langgraph.pregel._algo import x", ["langgraph.pregel._algo.x"]),
        ("from langgraph.pregel import _algo\n_algo._scratchpad", ["langgraph.pregel._algo"]),
        ("import aiokafka\naiokafka.client._conns", ["aiokafka._conns"]),
        ("from aiokafka.client import AIOKafkaClient\nAIOKafkaClient.bootstrap", []),
        ("class A:\n    def f(self):\n        return self._private", []),
    ],
)
def test_a_private_name_is_found(code, found):
    names = [name for name, _ in private_names(ast.parse(code))]
    assert names[: len(found)] == found
    assert bool(names) == bool(found)
