"""Start, recognise and stop processes; writes nothing but the children's logs.

Reads a process's start from `/proc`, in clock ticks since the boot: a data folder keeps it, and
the next command finds the process by it. `psutil.Process.create_time` is based on the
system clock, so the same process would have another start after the clock was set.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from turnstream.schemas.errors import StackError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_EXEC = Path(__file__).with_name("_exec.py")
_POLL_S = 0.02


class Identity(msgspec.Struct, frozen=True):
    """A process, told apart from a later one with the same pid.

    `started` is in clock ticks since the boot named by `boot`.
    """

    pid: int
    started: int
    boot: str

    def alive(self) -> bool:
        """Return whether this very process still runs (a zombie does not)."""
        return self.boot == _boot_id() and _started(self.pid) == self.started

    def send(self, signum: int) -> bool:
        """Signal this very process; return whether it was there to get it."""
        try:
            fd = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return False
        except OSError:  # a kernel without pidfd: the check below is all there is
            fd = -1
        try:
            if not self.alive():
                return False
            with suppress(ProcessLookupError):
                if fd >= 0:
                    signal.pidfd_send_signal(fd, signum)
                else:
                    os.kill(self.pid, signum)
        finally:
            if fd >= 0:
                os.close(fd)
        return True


@dataclass(frozen=True, slots=True)
class Account:
    """An account of this machine that a child runs as."""

    name: str
    uid: int
    gid: int


def identify(pid: int) -> Identity:
    """Return the identity of a process that runs now; raises `StackError` when none does."""
    started = _started(pid)
    if started is None:
        raise StackError(f"there is no process {pid}")
    return Identity(pid=pid, started=started, boot=_boot_id())


def spawn(
    argv: Sequence[str],
    *,
    log: Path,
    env: Mapping[str, str],
    cwd: Path | None = None,
    account: Account | None = None,
    death_signal: int = signal.SIGTERM,
) -> subprocess.Popen[bytes]:
    """Start a child in a session of its own, its output appended to `log`.

    The kernel sends it `death_signal` when the thread that calls this ends: call it from one that
    lives as long as the child shall, which the main thread does.
    """
    program = shutil.which(argv[0]) or argv[0]
    uid, gid = (account.uid, account.gid) if account else (-1, -1)
    numbers = (str(int(death_signal)), str(os.getpid()), str(uid), str(gid))
    with log.open("ab") as output:
        return subprocess.Popen(  # noqa: S603 - our own arguments, no shell
            [sys.executable, "-I", "-S", str(_EXEC), *numbers, program, *argv[1:]],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=dict(env),
            cwd=cwd,
            start_new_session=True,
        )


def wait_gone(
    processes: Sequence[Identity], timeout_s: float, hurry: Callable[[], bool] = lambda: False
) -> list[Identity]:
    """Block until all have ended, the time is up or `hurry` returns True; return the others."""
    deadline = time.monotonic() + timeout_s
    while True:
        left = [process for process in processes if process.alive()]
        if not left or time.monotonic() > deadline or hurry():
            return left
        time.sleep(_POLL_S)


def kill_group(process: Identity) -> None:
    """End a process and its group at once; does nothing when it has gone."""
    if process.alive() and os.getpgid(process.pid) == process.pid:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    else:
        process.send(signal.SIGKILL)


def ending(returncode: int) -> str:
    """Return in words how a process ended."""
    if returncode >= 0:
        return f"ended with exit code {returncode}"
    try:
        name = signal.Signals(-returncode).name
    except ValueError:
        name = str(-returncode)
    return f"was ended by signal {name}"


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _started(pid: int) -> int | None:
    """Return field 22 of proc(5)'s stat, or None when the process is gone or a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    state, *fields = stat.rpartition(")")[2].split()  # the name may hold blanks and brackets
    return None if state in "ZX" else int(fields[18])
