"""The wheel works in an environment that has nothing else of ours."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
UV = ROOT / ".venv/bin/uv"


def _run(*command, cwd):
    run = subprocess.run(
        [str(part) for part in command], cwd=cwd, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-2000:]
    return run.stdout


@pytest.mark.timeout(600)
def test_wheel_installs_and_works(tmp_path):
    _run(
        sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path, ROOT,
        cwd=tmp_path,
    )  # fmt: skip
    (wheel,) = tmp_path.glob("*.whl")
    _run(UV, "venv", "-q", tmp_path / "venv", "--python", sys.executable, cwd=tmp_path)
    python = tmp_path / "venv/bin/python"
    lock = ROOT / "requirements/runtime.lock"
    _run(UV, "pip", "sync", "-q", "--python", python, "--require-hashes", lock, cwd=tmp_path)
    _run(UV, "pip", "install", "-q", "--python", python, "--no-deps", wheel, cwd=tmp_path)
    turnstream = tmp_path / "venv/bin/turnstream"
    assert "turnstream" in _run(turnstream, "--version", cwd=tmp_path)
    assert "worker" in _run(turnstream, "--help", cwd=tmp_path)
    shipped = _run(
        python, "-c",
        "from turnstream.schemas.records import schemas; from importlib.resources import files;"
        "import turnstream.streams.app, turnstream.deploy.local;"
        "print(len(schemas()), any(files('turnstream.connectors.postgres').joinpath('sql').iterdir()))",
        cwd=tmp_path,
    )  # fmt: skip
    assert shipped.split()[1] == "True"
