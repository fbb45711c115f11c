"""Docs say what is there: names they cite exist, and what exists is named."""

from __future__ import annotations

import ast
import functools
import re
import subprocess
from pathlib import Path
from typing import get_args, get_type_hints
from xml.etree import ElementTree as ET

import pytest

from turnstream.schemas import errors
from turnstream.schemas.records.commands import OnBusy
from turnstream.schemas.records.events import EVENTS
from turnstream.schemas.topics import Topics
from turnstream.streams.app.settings import Settings
from turnstream.streams.edge.routes.plain_dialect import Frame
from turnstream.streams.edge.server.auth import TOKEN_SUBPROTOCOL
from turnstream.streams.edge.surfaces.run_events import MODES

ROOT = Path(__file__).parents[1]
PAGES = {page.name: page.read_text() for page in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"))}
REFERENCE = PAGES["reference.md"]
SYMBOL = re.compile(r"`([\w/.-]+\.py)::([\w.]+)`")
MODULE = re.compile(r"`([a-z_]+/[\w/-]+\.(?:py|sql))(?:::[\w.]+)?`")
NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
LINK = re.compile(r"\]\((?!https?:|#)([^)#]+)")
COMMAND = re.compile(r"`(make [a-z]+|turnstream [a-z-]+)")


def _names(path: Path) -> set[str]:
    """Top-level names of a module, and `Class.name` of what its classes hold."""
    found = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {target.id for target in targets if isinstance(target, ast.Name)}
        name = getattr(node, "name", None)
        if name is None:
            continue
        found.add(name)
        if isinstance(node, ast.ClassDef):
            found |= {f"{name}.{part.name}" for part in node.body if hasattr(part, "name")}
    return found


@pytest.mark.parametrize("page", PAGES)
def test_symbols_that_a_page_cites_exist(page):
    for path, symbol in SYMBOL.findall(PAGES[page]):
        found = [p for p in (ROOT / path, ROOT / "tests" / path) if p.exists()]
        assert found, path
        assert symbol in _names(found[0]), f"{path}::{symbol}"


def test_paths_that_contributing_names_exist():
    named = re.findall(r"`([a-z_.]+/[\w/.-]*)`", PAGES["CONTRIBUTING.md"])
    assert len(named) > 20
    for path in named:
        assert (ROOT / path).exists(), path


def test_architecture_follows_a_turn_hop_by_hop():
    page = PAGES["ARCHITECTURE.md"]
    (count,) = re.findall(r"^## One turn in (\w+) hops$", page, re.MULTILINE)
    rows = re.findall(r"^\| (\d+) \w+ \|.*", page.split(f" in {count} hops")[1], re.MULTILINE)
    assert [int(row) for row in rows] == [*range(1, NUMBERS.index(count) + 2)]


@pytest.mark.parametrize("page", PAGES)
def test_modules_that_a_page_names_exist(page):
    for path in MODULE.findall(PAGES[page]):
        found = [(ROOT / folder / path).exists() for folder in ("", "tests", "connectors/postgres")]
        assert any(found), path


def test_architecture_walks_through_the_modules():
    assert len(set(MODULE.findall(PAGES["ARCHITECTURE.md"]))) > 25


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    folder = ROOT / "docs" if (ROOT / "docs" / page).exists() else ROOT
    for target in LINK.findall(PAGES[page]):
        assert (folder / target).exists(), target


def test_the_readme_links_every_page_with_a_line_of_its_own():
    rows = re.findall(r"^\| \[([^]]+)\]\(([^)]+)\) \| (.+) \|$", PAGES["README.md"], re.MULTILINE)
    linked = [target for _, target, _ in rows]
    assert linked == list(dict.fromkeys(linked))
    pages = {f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md")}
    assert pages | {"ARCHITECTURE.md", "CONTRIBUTING.md"} == set(linked)
    assert all(name == target and says.strip() for name, target, says in rows)


@pytest.mark.parametrize("page", ["README.md", "ARCHITECTURE.md"])
def test_the_picture_is_drawn_without_anything_from_outside(page):
    (name,) = set(re.findall(r"!\[[^]]+\]\((\S+\.svg)\)", PAGES[page]))
    text = (ROOT / name).read_text()
    root = ET.fromstring(text)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert not re.search(r"@import|@font-face|href=|<image|<script", text)
    for topic in ("turns", "turns.<tenant>", "turn-events", "turn-results.<tenant>"):
        assert topic in [node.text for node in root.iter("{http://www.w3.org/2000/svg}text")]


def test_reference_is_what_the_code_says():
    from turnstream.streams.app.reference import reference

    assert reference() == REFERENCE, "make docs"


def test_the_made_parts_for_consumers_are_what_the_code_says():
    from turnstream.streams.app.reference import consumers

    assert consumers(PAGES["consumers.md"]) == PAGES["consumers.md"], "make docs"


def test_every_plain_event_is_documented_for_clients():
    source = (ROOT / "streams/edge/surfaces/plain.py").read_text()
    names = set(re.findall(r'(?:return|append\(\(|else|\[\() ?"([a-z]+)"', source))
    assert len(names) >= 8
    for name in names:
        assert f"`{name}`" in PAGES["clients.md"], name


def test_what_clients_may_ask_for_is_documented_for_clients():
    page = PAGES["clients.md"]
    for mode in MODES:
        assert f"`{mode}`" in page, mode
    for policy in get_args(OnBusy):
        assert f"`{policy}`" in page, policy
    for frame in get_args(get_type_hints(Frame)["type"]):
        assert f'"type": "{frame}"' in page, frame
    assert f"`{TOKEN_SUBPROTOCOL}`" in page


def test_every_setting_is_documented():
    for name, field in Settings.model_fields.items():
        assert f"`TURNSTREAM_{name.upper()}`" in REFERENCE, name
        assert field.description, name


def test_every_error_code_is_documented():
    tree = [one for one in vars(errors).values() if isinstance(one, type)]
    assert len(tree) > 20
    for error in tree:
        assert f"`{error.code}`" in REFERENCE, error


def test_public_errors_stand_in_one_tree():
    for folder in ("connectors", "graph", "streams", "deploy"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.parse(path.read_text()).body:
                if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                    bases = {base.id for base in node.bases if isinstance(base, ast.Name)}
                    raised = {name for name in bases if name.endswith(("Error", "Exception"))}
                    assert not raised, f"{path}: {node.name}"


def test_every_event_and_topic_is_documented():
    for event in EVENTS:
        assert f"`{event.__name__}`" in REFERENCE, event
    topics = Topics()
    architecture = PAGES["ARCHITECTURE.md"]
    for topic in topics.all(("<tenant>",), 1):
        assert f"`{topic.name}`" in architecture, topic.name


@functools.cache
def _help(name: str) -> tuple[int, str]:
    """Return the exit code of a command's `--help`, and its complaint."""
    turnstream = ROOT / ".venv/bin/turnstream"
    run = subprocess.run([turnstream, name, "--help"], capture_output=True, text=True, check=False)
    return run.returncode, run.stderr


@pytest.mark.parametrize("page", PAGES)
def test_commands_that_a_page_names_exist(page):
    made = (ROOT / "Makefile").read_text()
    for command in set(COMMAND.findall(PAGES[page])):
        program, name = command.split()
        if program == "make":
            assert re.search(rf"^{name}:", made, re.MULTILINE), command
        else:
            code, said = _help(name)
            assert code == 0, (command, said[-500:])
