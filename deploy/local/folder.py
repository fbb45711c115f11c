"""The folder that one local stack lives in, and the lock that gives it to one supervisor.

.gitignore         so that nobody commits it
lock               held (flock) as long as a supervisor lives
state.json         see `state`
postgres.password  mode 0600
logs/PART.log      of the latest start; PART.log.1 of the one before
kafka/ postgres/   data, kept from start to start
"""

from __future__ import annotations

import fcntl
import shutil
from typing import TYPE_CHECKING

from turnstream.deploy.local.machine import unprivileged_account
from turnstream.deploy.local.postgres import data_place
from turnstream.deploy.local.process import kill_group, wait_gone
from turnstream.deploy.local.state import PartState, StackState, Status, read_state
from turnstream.schemas.errors import StackRunningError

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
        self.path.mkdir(parents=True, exist_ok=True)
        # Postgres may have to run as an account that needs to pass through, not to look around
        self.path.chmod(0o711 if unprivileged_account() else 0o700)
        (self.path / ".gitignore").write_text("*\n")
        self.logs = self.path / "logs"
        self.logs.mkdir(mode=0o700, exist_ok=True)
        self._lock: TextIO | None = None

    def acquire(self) -> None:
        """Take the lock, or raise `StackRunningError` with the pid of who holds it."""
        lock = (self.path / "lock").open("a")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
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
        path.touch(mode=0o600)
        return path

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


def stop_parts(
    state: StackState,
    *,
    hurry: Callable[[], bool] = lambda: False,
    report: Callable[[PartState], None] = lambda _: None,
) -> list[str]:
    """Stop all processes of a state, the last started first; return the names of those stopped.

    Only processes that are the recorded ones are touched (pid and start time). Those of a tier are
    asked together; who is not gone in its time, or when `hurry` says so, is killed.
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
