"""Every block of the README and of docs/clients.md runs, in a folder of its own, in order.

The README's blocks start a stack. Those of docs/clients.md run on it before it is stopped; its
block in JavaScript runs in `tests/integration/sdk/test_sdk_js.py`.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^```(sh|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCKS = BLOCK.findall((ROOT / "README.md").read_text())
CLIENTS = BLOCK.findall((ROOT / "docs/clients.md").read_text())
TURNSTREAM = ROOT / ".venv/bin/turnstream"


@pytest.fixture(scope="module")
def folder(tmp_path_factory, starts_servers):
    """A folder that looks like a checkout after set-up; its stack is stopped in any case."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / ".venv").symlink_to(ROOT / ".venv")
    yield folder
    subprocess.run([TURNSTREAM, "down"], cwd=folder, check=True, timeout=120)


def _edge_url(folder: Path) -> str:
    shown = subprocess.run(
        [TURNSTREAM, "status", "--json"], cwd=folder, check=False, capture_output=True, text=True
    )
    return json.loads(shown.stdout)["edge_url"]


def test_the_first_two_commands():
    first = BLOCKS[0][1].split("\n")[:2]
    assert first == ["make demo", "make test"]
    made = (ROOT / "Makefile").read_text()
    for command in first:
        assert f"\n{command.removeprefix('make ')}: setup" in made


@pytest.mark.timeout(400)
@pytest.mark.usefixtures("starts_servers")
def test_demo(tmp_path):
    run = subprocess.run(
        [TURNSTREAM, "demo"], cwd=tmp_path, check=False, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "the same SHA-256" in run.stdout
    assert "nothing is left running" in run.stdout


@pytest.mark.timeout(600)
def test_the_other_blocks(folder):
    assert "turnstream down" in BLOCKS[-1][1]
    assert len(CLIENTS) >= 5
    for kind, block in (*BLOCKS[1:-1], *CLIENTS, BLOCKS[-1]):
        text = block
        if "up --detach" not in block:
            address = _edge_url(folder).removeprefix("http://")
            text = block.replace("127.0.0.1:8123", address)
        command = ["bash", "-euo", "pipefail", "-c", text]
        if kind == "python":
            command = [sys.executable, "-c", text]
        run = subprocess.run(
            command, cwd=folder, check=False, capture_output=True, text=True, timeout=300
        )
        assert run.returncode == 0, (text, run.stdout[-2000:], run.stderr[-2000:])
        if "status" not in text and "down" not in text:
            assert run.stdout.strip(), text
