"""Standard output and error of a long-lived process: a write never raises and never waits long.

A log may go to a pipe whose reader has gone or has stopped reading, to a full disk, or to a closed
descriptor. None of that may end a turn or a process, so a line that cannot be written is dropped.
The next line that can be written is preceded by the count of dropped lines.
"""

from __future__ import annotations

import io
import os
import select
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Buffer

WAIT_MS = 20
"""The wait for a full pipe. After one in vain, lines are dropped at once until it takes data."""
_CHUNK_BYTES = select.PIPE_BUF  # a pipe that polls as writable takes this much without blocking
_STANDARD_FDS = (0, 1, 2)


class LogOutput(io.RawIOBase):
    """A descriptor to write to; `dropped` counts the writes lost since the last notice."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._poll = select.poll()
        self._poll.register(fd, select.POLLOUT)
        self._patient = True
        self._torn = False
        self.dropped = 0

    def write(self, data: Buffer, /) -> int:
        """Write all of it or drop the rest; return its length either way."""
        view = memoryview(data)
        notice = self._notice()
        if (notice and not self._written(memoryview(notice))) or not self._written(view):
            self.dropped += 1
        elif notice:
            self.dropped, self._torn = 0, False
        return view.nbytes

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._fd

    def isatty(self) -> bool:
        """Return whether it is a terminal."""
        return os.isatty(self._fd)

    def writable(self) -> bool:
        """Return True."""
        return True

    def _notice(self) -> bytes:
        if not self.dropped:
            return b""
        start = "\n" if self._torn else ""
        return f'{start}{{"event": "log_lines_dropped", "count": {self.dropped}}}\n'.encode()

    def _written(self, view: memoryview) -> bool:
        done = 0
        with suppress(OSError):
            while done < view.nbytes:
                if not self._poll.poll(WAIT_MS if self._patient else 0):
                    self._patient = False
                    break
                done += os.write(self._fd, view[done : done + _CHUNK_BYTES])
            else:
                self._patient = True
                return True
        self._torn = self._torn or done > 0
        return False


def hold_standard_fds() -> None:
    """Open `/dev/null` in place of each closed standard descriptor.

    Otherwise the next socket of the process gets that number, and a log line goes to its peer.
    """
    for fd in _STANDARD_FDS:
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one


def guard_output() -> None:
    """Replace `sys.stdout` and `sys.stderr` by streams whose writes never raise."""
    hold_standard_fds()
    sys.stdout, sys.stderr = _stream(1), _stream(2)


def _stream(fd: int) -> io.TextIOWrapper:
    # TextIOWrapper asks its buffer for `write` and `flush` only, which a raw stream has
    return io.TextIOWrapper(
        LogOutput(fd),  # type: ignore[arg-type]
        encoding="utf-8",
        errors="backslashreplace",
        line_buffering=True,
    )
