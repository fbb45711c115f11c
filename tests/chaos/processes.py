"""The processes of a stage: forked from one template, watched, ended by their id."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

ROOT = Path(__file__).parents[2]


class Process:
    """A worker or an edge with a port that says when it is ready."""

    def __init__(self, kind: str, name: str, pid: int, port: int, log: Path) -> None:
        self.kind, self.name, self.pid, self.port, self.log = kind, name, pid, port, log
        self.was_ready = False
        self.meant_to_end = False

    @property
    def alive(self) -> bool:
        """Whether it runs; a stopped one does, a zombie does not."""
        try:
            stat = Path(f"/proc/{self.pid}/stat").read_text()
        except (FileNotFoundError, ProcessLookupError):  # the latter if it goes meanwhile
            return False
        return stat.rpartition(")")[2].split()[0] != "Z"

    @property
    def stopped(self) -> bool:
        """Whether SIGSTOP holds it."""
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
        return False

    def kill(self) -> None:
        """Kill -9; nothing happens to one that is dead."""
        self.meant_to_end = True
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def terminate(self) -> None:
        """SIGTERM: a worker hands over; nothing happens to one that is dead."""
        self.meant_to_end = True
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGTERM)

    def freeze(self) -> None:
        """SIGSTOP."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT; nothing happens to one that is dead."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGCONT)

    async def ready_or_ended(self, timeout_s: float = 60.0) -> None:
        """Wait until `/readyz` says so, or a fault that was armed in it has ended it.

        The stage notes one that ended by itself.
        """
        async with asyncio.timeout(timeout_s), aiohttp.ClientSession() as http:
            while self.alive and not await self.is_ready(http):
                await asyncio.sleep(0.05)

    async def is_ready(self, http: aiohttp.ClientSession) -> bool:
        """Ask once."""
        with contextlib.suppress(aiohttp.ClientError, TimeoutError):
            url = f"http://127.0.0.1:{self.port}/readyz"
            async with http.get(url, timeout=aiohttp.ClientTimeout(total=1.0)) as response:
                return response.status == 200
        return False

    async def ended(self, timeout_s: float = 30.0) -> None:
        """Wait until it is dead."""
        async with asyncio.timeout(timeout_s):
            while self.alive:
                await asyncio.sleep(0.02)


class Template:
    """The process that the others are forked from (`worker.py`)."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._turn = threading.Lock()

    async def fork(
        self, kind: str, name: str, log: Path, env: dict[str, str], port: int
    ) -> Process:
        """Make a process; wait for its `ready` before it counts."""
        asked = {"kind": kind, "name": name, "log": str(log), "env": env}
        return Process(kind, name, (await self._ask(asked))["pid"], port, log)

    async def reap(self, process: Process) -> int:
        """Collect a dead one, so that its id may be given to others; return its exit code."""
        return int((await self._ask({"reap": process.pid}))["code"])

    async def _ask(self, asked: dict[str, Any]) -> Any:
        return await asyncio.to_thread(self._exchange, asked)

    def _exchange(self, asked: dict[str, Any]) -> Any:
        """Ask and hear the answer; one at a time, also where who asked was cancelled meanwhile.

        Of two threads in `readline` one throws away what the other has read ahead.
        """
        with self._turn:
            self._process.stdin.write(json.dumps(asked).encode() + b"\n")
            self._process.stdin.flush()
            return json.loads(self._process.stdout.readline())


@contextlib.asynccontextmanager
async def template(folder: Path) -> AsyncIterator[Template]:
    """Start the template; its processes have to be ended before it."""
    log = folder / "template.log"
    # a process starts in a third of the time where it may keep its bytecode
    bytecode = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(folder / "bytecode")}
    with log.open("wb") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            cwd=ROOT,
            env={**os.environ, **bytecode},
        )
    try:
        if not await asyncio.to_thread(process.stdout.readline):
            raise AssertionError(log.read_text()[-3000:])
        yield Template(process)
    finally:
        process.kill()
        process.communicate()


def used_cpu_s() -> float:
    """CPU seconds of this process and of all it started, the living and those it has collected."""
    total = sum(os.times()[:4])
    for child in _descendants(os.getpid()):
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
            total += sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
    return total


def _descendants(pid: int) -> list[int]:
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                stat = (entry / "stat").read_text()
                parents.setdefault(int(stat.rpartition(")")[2].split()[1]), []).append(
                    int(entry.name)
                )
    found, waiting = [], [pid]
    while waiting:
        children = parents.get(waiting.pop(), [])
        found += children
        waiting += children
    return found
