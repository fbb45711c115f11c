"""The wheel holds what it needs and works in an environment that has nothing else of ours."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
UV = ROOT / ".venv/bin/uv"
PARTS = ("schemas", "connectors", "graph", "streams", "deploy/local")
SHIPPED = {".py", ".sql", ".avsc", ".lock", ".mako", ".typed"}
MIGRATE = """
import sys
from turnstream.connectors.postgres.migrate import migrate
migrate(sys.argv[1])
"""
SHOW = """
import turnstream.streams.app.worker, turnstream.streams.app.edge, turnstream.deploy.local
from turnstream.schemas.records.known import schemas
print(len(schemas()))
"""


def _run(*command, cwd):
    run = subprocess.run(
        [str(part) for part in command], cwd=cwd, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-2000:]
    return run.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel built from a copy of the sources: a build leaves traces where it runs."""
    folder = tmp_path_factory.mktemp("wheel")
    unwanted = shutil.ignore_patterns(".*", "node_modules", "build", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, folder / "source", ignore=unwanted)
    _run(
        sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder,
        folder / "source", cwd=folder,
    )  # fmt: skip
    return next(folder.glob("*.whl"))


def test_wheel_holds_every_source_file(wheel):
    there = set(zipfile.ZipFile(wheel).namelist())
    wanted = {
        f"turnstream/{path.relative_to(ROOT)}"
        for part in PARTS
        for path in (ROOT / part).rglob("*")
        if path.suffix in SHIPPED or path.name == "py.typed"
    }
    assert wanted - there == set()


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """The bin folder of an environment with the wheel and its locked dependencies."""
    folder = tmp_path_factory.mktemp("installed")
    _run(UV, "venv", "-q", folder / "venv", "--python", sys.executable, cwd=folder)
    python = folder / "venv/bin/python"
    lock = ROOT / "requirements/runtime.lock"
    _run(UV, "pip", "sync", "-q", "--python", python, "--require-hashes", lock, cwd=folder)
    _run(UV, "pip", "install", "-q", "--python", python, "--no-deps", wheel, cwd=folder)
    return python.parent


@pytest.mark.timeout(600)
def test_wheel_works(installed, tmp_path):
    assert "turnstream" in _run(installed / "turnstream", "--version", cwd=tmp_path)
    assert "worker" in _run(installed / "turnstream", "--help", cwd=tmp_path)
    assert int(_run(installed / "python", "-c", SHOW, cwd=tmp_path)) > 20


def test_wheel_migrates_a_database(installed, tmp_path, database):
    """The SQL is data of the package and has to be found there."""
    _run(installed / "python", "-c", MIGRATE, database, cwd=tmp_path)
