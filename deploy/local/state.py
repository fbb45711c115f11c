"""What is known of a stack from outside its supervisor: `state.json` in the stack's folder.

Written by the supervisor after every change (atomically, mode 0600: it holds the database's
password), read by `status`, `logs`, `down` and every command that uses the running stack.
"""

from __future__ import annotations

import os
from enum import StrEnum
from typing import TYPE_CHECKING

import msgspec

from turnstream.deploy.local.process import Identity
from turnstream.schemas.errors import StackError

if TYPE_CHECKING:
    from pathlib import Path

_NAME = "state.json"
_VERSION = 1


class Status(StrEnum):
    """Where a part stands."""

    PREPARING = "preparing"
    STARTING = "starting"
    READY = "ready"
    EXTERNAL = "external"  # configured by URL: used, not started
    ENDED = "ended"  # it ran, and is gone without having been asked
    FAILED = "failed"
    STOPPING = "stopping"
    STOPPED = "stopped"


class PartState(msgspec.Struct, kw_only=True):
    """One part; `process` is None unless it runs, `stop_timeout_s` is in seconds.

    `restarts` counts how often it ended by itself and was started again; `cause` is how it ended
    the last time.
    """

    name: str
    status: Status
    detail: str = ""
    url: str = ""
    ports: dict[str, int] = {}
    log: str = ""
    restarts: int = 0
    cause: str = ""
    process: Identity | None = None
    tier: int = 0
    stop_signal: int = 15
    stop_timeout_s: float = 10.0


class StackState(msgspec.Struct, kw_only=True):
    """A stack: its supervisor, its parts in the order of their start, and how to reach it.

    `embedded`: the supervisor is a program that holds the stack for itself (a test run), so that
    `turnstream down` must not stop it.
    """

    version: int = _VERSION
    supervisor: Identity | None = None
    embedded: bool = False
    ready: bool = False
    kafka_bootstrap: str = ""
    database_url: str = ""
    model_url: str = ""
    model_name: str = ""
    edge_url: str = ""
    postgres_data: str = ""
    parts: list[PartState] = []

    def running(self) -> bool:
        """Return whether the supervisor lives."""
        return self.supervisor is not None and self.supervisor.alive()

    def part(self, name: str) -> PartState | None:
        """Return the part of that name, or None."""
        return next((part for part in self.parts if part.name == name), None)

    def environment(self) -> dict[str, str]:
        """Return the settings by which a process uses this stack, as environment variables."""
        found = {
            "TURNSTREAM_KAFKA_BOOTSTRAP": self.kafka_bootstrap,
            "TURNSTREAM_DATABASE_URL": self.database_url,
            "TURNSTREAM_MODEL_URL": self.model_url,
            "TURNSTREAM_MODEL_NAME": self.model_name,
            "TURNSTREAM_EDGE_URL": self.edge_url,
        }
        return {name: value for name, value in found.items() if value}


def read_state(folder: Path) -> StackState | None:
    """Return the state kept in a stack's folder, or None when no stack ever ran there."""
    path = folder / _NAME
    try:
        return msgspec.json.decode(path.read_bytes(), type=StackState)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise StackError(f"{path} cannot be read ({error}); `turnstream up` mends it") from error


def recover_state(folder: Path) -> StackState:
    """Return the state kept in a folder; put one that is damaged aside and return an empty one.

    Call it with the folder's lock: the processes of a supervisor end with it.
    """
    try:
        return read_state(folder) or StackState()
    except StackError:
        path = folder / _NAME
        path.replace(path.with_name(f"{_NAME}.damaged"))
        return StackState()


def write_state(folder: Path, state: StackState) -> None:
    """Replace the state kept in a stack's folder."""
    temporary = folder / f"{_NAME}.new"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(msgspec.json.format(msgspec.json.encode(state), indent=2))
    temporary.replace(folder / _NAME)


def find_stack(folder: Path) -> StackState | None:
    """Return the state of the stack that runs on this folder now, or None."""
    state = read_state(folder)
    return state if state is not None and state.running() else None
