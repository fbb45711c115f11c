"""Print what the parts of a local stack log."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from pathlib import Path

_FOLLOW_EVERY_S = 0.2


def print_logs(paths: dict[str, Path], *, lines: int, follow: bool) -> None:
    """Print each log's last lines (0: all), and go on until Ctrl-C if asked to follow.

    With more than one log each line begins with its part's name.
    """
    width = max(map(len, paths)) if len(paths) > 1 else 0
    tails = {name: LogTail(path) for name, path in paths.items()}

    def show(name: str, line: str) -> None:
        typer.echo(f"{name:<{width}} | {line}" if width else line)

    for name, tail in tails.items():
        for line in tail.read()[-lines or -sys.maxsize :]:
            show(name, line)
    try:
        while follow:
            for name, tail in tails.items():
                for line in tail.read():
                    show(name, line)
            time.sleep(_FOLLOW_EVERY_S)
    except KeyboardInterrupt:
        return


class LogTail:
    """The lines that a log gets; begins anew when the log does."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._inode = 0

    def read(self) -> list[str]:
        """Return the whole lines since the last call."""
        try:
            with self._path.open("rb") as file:
                inode = os.fstat(file.fileno()).st_ino
                if inode != self._inode:
                    self._inode, self._offset = inode, 0
                file.seek(self._offset)
                whole, newline, _ = file.read().rpartition(b"\n")
        except FileNotFoundError:
            return []
        self._offset += len(whole) + len(newline)
        return whole.decode(errors="replace").splitlines() if newline else []
