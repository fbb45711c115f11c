"""A part of the stack: a process that is started, awaited, watched and stopped.

The four servers and our own processes differ in data only; what to run and how to see that it is
ready. Nothing here knows which is which.
"""

from __future__ import annotations

import os
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass, field
from errno import EADDRINUSE
from signal import SIGTERM
from typing import TYPE_CHECKING

from turnstream.deploy.local.process import Account, Identity, ending, identify, kill_group, spawn
from turnstream.schemas.errors import PartError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

TAIL_LINES = 15
START_OVER = "`turnstream up --fresh` starts over and removes all data"
_TAIL_BYTES_MAX = 64 << 10
_IN_USE = os.strerror(EADDRINUSE).lower()


def _never(_: str) -> bool:
    return False


def _as_it_was(_: int, __: str) -> str:
    return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What to run.

    `ready` is called again and again: it returns whether the part serves, and may raise `OSError`
    for "not yet". `again` takes the log of a part that died before it was ready, and returns
    whether another start may help (at most `restarts_max`). `explain` takes its return code and
    its log, and may return the cause in better words. Times are in seconds.
    """

    name: str
    argv: tuple[str, ...]
    log: Path
    env: Mapping[str, str]
    ready: Callable[[], bool]
    tier: int = 0
    account: Account | None = None
    url: str = ""
    ports: dict[str, int] = field(default_factory=dict)
    ready_timeout_s: float = 120.0  # two busy cores have needed 36
    stop_signal: int = SIGTERM
    stop_timeout_s: float = 15.0
    again: Callable[[str], bool] = _never
    restarts_max: int = 0
    restart_pause_s: float = 0.5
    explain: Callable[[int, str], str] = _as_it_was


class Running:
    """A part's process, from its start to its end."""

    def __init__(self, part: Part) -> None:
        self.part = part
        self.ready = False
        self.reported_end = False
        self.began = time.monotonic()
        self._restarts = 0
        self._restart_at = 0.0
        self._start()

    def _start(self) -> None:
        self._log_from = self.part.log.stat().st_size if self.part.log.exists() else 0
        try:
            self._popen: subprocess.Popen[bytes] = spawn(
                self.part.argv,
                log=self.part.log,
                env=self.part.env,
                account=self.part.account,
                death_signal=self.part.stop_signal,
            )
        except OSError as error:
            raise self.failure(str(error)) from error
        self.identity: Identity = identify(self._popen.pid)

    def poll(self) -> bool:
        """Return whether the part has become ready; raises `PartError` when it never will."""
        if (returncode := self._popen.poll()) is not None:
            self._died_early(returncode)
            return False
        with suppress(OSError):
            self.ready = self.part.ready()
        if not self.ready and time.monotonic() - self.began > self.part.ready_timeout_s:
            raise self.failure(f"was not ready after {self.part.ready_timeout_s:.0f} s")
        return self.ready

    def ended(self) -> str:
        """Return in words how the process ended, or nothing while it runs."""
        returncode = self._popen.poll()
        return "" if returncode is None else ending(returncode)

    def kill(self) -> None:
        """End the process at once."""
        kill_group(self.identity)
        self.reap()

    def reap(self) -> None:
        """Collect the exit status of a process that has been stopped."""
        with suppress(subprocess.TimeoutExpired):
            self._popen.wait(timeout=1)

    def failure(self, cause: str) -> PartError:
        """Return the error, with the last lines of the part's log."""
        lines = tuple(self._logged().splitlines()[-TAIL_LINES:])
        error = PartError(part=self.part.name, cause=cause, tail=lines, log=str(self.part.log))
        error.add_note("\n".join(lines))  # for the traceback of who holds the stack in a program
        return error

    def _died_early(self, returncode: int) -> None:
        logged = self._logged()
        if self._restarts >= self.part.restarts_max or not self.part.again(logged):
            told = self.part.explain(returncode, logged) or self._port_taken(logged)
            raise self.failure(told or ending(returncode))
        if not self._restart_at:
            self._restart_at = time.monotonic() + self.part.restart_pause_s
        elif time.monotonic() >= self._restart_at:
            self._restart_at = 0.0
            self._restarts += 1
            self._start()

    def _port_taken(self, logged: str) -> str:
        """Return the cause if another process took a port between its choice and the start."""
        if _IN_USE not in logged.lower():
            return ""
        ports = ", ".join(f"{port} ({use})" for use, port in self.part.ports.items())
        return f"another process has taken its port since it was chosen: {ports}; start it again"

    def _logged(self) -> str:
        """Return what was logged since the latest start, at most its last 64 KiB."""
        if not self.part.log.exists():
            return ""
        with self.part.log.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(self._log_from, size - _TAIL_BYTES_MAX))
            return file.read().decode(errors="replace")
