"""The Dockerfile's own install steps, run without Docker in a clean folder."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = (ROOT / "deploy" / "Dockerfile").read_text()


def stages() -> list[list[tuple[str, str]]]:
    """Return the instructions of each stage."""
    found = []
    for line in DOCKERFILE.splitlines():
        word, _, rest = line.partition(" ")
        if word == "FROM":
            found.append([])
        if word.isupper():
            found[-1].append((word, rest.strip()))
    return found


def test_image_runs_as_nobody_and_stops_on_sigterm():
    last = dict(stages()[-1])
    assert last["USER"].isdigit()
    assert last["USER"] != "0"
    assert last["STOPSIGNAL"] == "SIGTERM"
    assert last["ENTRYPOINT"] == '["turnstream"]'
    images = re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)
    assert len(set(images)) == 1  # the copied environment needs the Python it was made with


def test_tools_are_those_of_the_makefile():
    version = re.search(r"^UV_VERSION := (\S+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert f"uv=={version[1]} " in DOCKERFILE


@pytest.mark.timeout(400)
@pytest.mark.usefixtures("starts_servers")
def test_install_steps_give_a_program_that_runs(tmp_path):
    source = tmp_path / "src"
    source.mkdir()
    prefix = tmp_path / "prefix"
    env = {
        "PATH": f"{Path(sys.base_prefix) / 'bin'}:{os.defpath}",
        **{key: value for key, value in os.environ.items() if key.startswith(("PIP_", "SSL_"))},
        "HOME": str(tmp_path),
        "TOOLS": str(tmp_path / "tools"),
        "PREFIX": str(prefix),
    }
    for word, rest in stages()[0]:
        if word == "COPY":
            *origins, target = shlex.split(rest)
            for origin in origins:
                copy(ROOT / origin, source / target)
        elif word == "RUN":
            done = subprocess.run(
                ["sh", "-ec", rest],
                cwd=source,
                env=env,
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, f"{rest}\n{done.stdout}\n{done.stderr}"
        else:
            assert word in {"FROM", "ENV", "WORKDIR"}, f"this test does not know {word}"
    shutil.rmtree(source)
    shown = subprocess.run(
        [prefix / "bin" / "turnstream", "config", "show", "--json"],
        cwd="/",
        env={"PATH": os.defpath, "TURNSTREAM_KAFKA_BOOTSTRAP": "kafka:9092"},
        capture_output=True,
        text=True,
        check=True,
    )
    values = {row["name"]: row["value"] for row in json.loads(shown.stdout)}
    assert values["kafka_bootstrap"] == "kafka:9092"
    # what the wheel has to carry besides code
    listed = subprocess.run(
        [prefix / "bin" / "python", "-c", READ_DATA],
        cwd="/",
        capture_output=True,
        text=True,
        check=True,
    )
    assert listed.stdout.split() == ["True", "True"]


READ_DATA = """
from importlib.resources import files
schemas = files("turnstream.schemas.records").joinpath("avro")
print(any(path.name.endswith(".avsc") for path in schemas.iterdir()))
print(files("turnstream.deploy.local").joinpath("kafka.lock").is_file())
"""


def copy(origin: Path, target: Path) -> None:
    if origin.is_dir():
        shutil.copytree(origin, target, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        target.mkdir(parents=True, exist_ok=True)
        shutil.copy(origin, target)
