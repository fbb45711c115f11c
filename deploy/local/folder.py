"""The folder that one local stack lives in, and the lock that gives it to one supervisor.

.gitignore         keeps the folder out of git
lock               held (flock) as long as a supervisor lives
state.json         see `state`
postgres.password  mode 0600
logs/PART.log      of the latest start; PART.log.1 of the one before
kafka/ postgres/   data, kept from start to start
"""

from __future__ import annotations

import fcntl
import os
import shutil
from contextlib import suppress
from typing import TYPE_CHECKING

from turnstream.deploy.local.machine import unprivileged_account
from turnstream.deploy.local.postgres_data import data_place
from turnstream.deploy.local.process import kill_group, wait_gone
from turnstream.deploy.local.state import PartState, StackState, Status, read_state
from turnstream.schemas.errors import StackError, StackRunningError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import TextIO

    from turnstream.deploy.local.process import Identity

DEFAULT_NAME = ".turnstream"
SUPERVISOR_LOG = "supervisor.log"
_KILL_TIMEOUT_S = 5.0


class Folder:
    """A stack's folder, created when it is not there."""

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        self.logs = self.path / "logs"
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._close()
            self.logs.mkdir(mode=0o700, exist_ok=True)
            with private(self.path / ".gitignore").open("w") as file:
                file.write("*\n")
        except OSError as error:
            raise StackError(f"{self.path} cannot be a stack's folder: {error}") from error
        self._lock: TextIO | None = None

    def _close(self) -> None:
        """Let no other account in, except Postgres' on its way to data that lie inside."""
        account = unprivileged_account()
        if account is not None and data_place(self.path).is_relative_to(self.path):
            os.chown(self.path, -1, account.gid)
            self.path.chmod(0o710)
        else:
            self.path.chmod(0o700)

    def acquire(self) -> None:
        """Take the lock, or raise `StackRunningError` with the pid of who holds it."""
        lock = private(self.path / "lock").open("a")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            state = None
            with suppress(StackError):  # damaged: it cannot tell whose the lock is
                state = read_state(self.path)
            pid = state.supervisor.pid if state and state.supervisor else 0
            raise StackRunningError(
                f"a stack already runs on {self.path}, started by process {pid or 'unknown'}",
                pid=pid,
            ) from None
        self._lock = lock

    @property
    def held(self) -> bool:
        """Return whether the lock is ours."""
        return self._lock is not None

    def release(self) -> None:
        """Give the lock back."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def log(self, part: str) -> Path:
        """Return a fresh log for a part, keeping the one of its last start."""
        path = self.logs / f"{part}.log"
        if path.exists():
            path.replace(path.with_name(f"{path.name}.1"))
        return private(path)

    def restart_note(self, part: str) -> Path:
        """Return where a note lies that tells the supervisor: a restart of this part was asked."""
        return self.path / f"restart-{part}"

    def clear(self) -> None:
        """Remove all data and logs, but neither the lock nor the ports remembered."""
        for path in (self.path / "kafka", self.path / "processor", data_place(self.path)):
            shutil.rmtree(path, ignore_errors=True)
        (self.path / "postgres.password").unlink(missing_ok=True)
        for log in self.logs.iterdir():
            if log.name != SUPERVISOR_LOG:  # our own output goes there
                log.unlink()

    def remove(self) -> None:
        """Remove the folder with everything in it."""
        self.clear()
        shutil.rmtree(self.path, ignore_errors=True)


def private(path: Path) -> Path:
    """Create the file if it is not there; in either case only its owner may read it."""
    path.touch(mode=0o600)
    path.chmod(0o600)
    return path


def stop_parts(
    state: StackState,
    *,
    hurry: Callable[[], bool] = lambda: False,
    report: Callable[[PartState], None] = lambda _: None,
) -> list[str]:
    """Stop all processes of a state, the last started first; return the names of those stopped.

    Only processes that are the recorded ones are touched (pid and start time). Those of a tier are
    asked together. Those that have not gone in their time, or once `hurry` returns True, are
    killed.
    """
    stopped = []
    for tier in sorted({part.tier for part in state.parts}, reverse=True):
        asked: list[tuple[PartState, Identity]] = []
        for part in state.parts:
            if part.tier == tier and part.process is not None:
                if part.process.send(part.stop_signal):
                    asked.append((part, part.process))
                    _show(part, Status.STOPPING, report)
                else:
                    part.process = None
                    _show(part, Status.ENDED, report)
        timeout = max((part.stop_timeout_s for part, _ in asked), default=0.0)
        for process in wait_gone([process for _, process in asked], timeout, hurry):
            kill_group(process)
        for part, process in asked:
            wait_gone([process], _KILL_TIMEOUT_S)
            part.process = None
            _show(part, Status.STOPPED, report)
            stopped.append(part.name)
    return stopped


def _show(part: PartState, status: Status, report: Callable[[PartState], None]) -> None:
    if part.status is not Status.FAILED:  # why the stack stops stays to be seen
        part.status, part.detail = status, ""
        report(part)
