"""Calls of tools that may take effect outside, as the ledger keeps them. Pure."""

from __future__ import annotations

import hashlib
import uuid
from typing import Any, Literal, NamedTuple

_KEYS = uuid.UUID("3d0f4b0e-59a6-5f0c-8a53-0f6c7a1de2b4")


class ToolCall(NamedTuple):
    """One call: its place in its chain of turns, its arguments, and its key.

    `path` is its task's, `ordinal` its place among the calls of that task. Together with the
    chain's origin they name it in the ledger. The tool gets `idempotency_key`.
    """

    path: str
    ordinal: int
    name: str
    digest: bytes
    idempotency_key: str
    tool_call_id: str = ""


class Known(NamedTuple):
    """The ledger's row of a call that is about to begin.

    `new`: there is none, or the call had stopped with a question. `started`: the call began, and
    may have taken effect. `done`: it has a `result`. `other`: the row has another name or other
    arguments.
    """

    state: Literal["new", "started", "done", "other"]
    result: Any = None


def call_digest(name: str, arguments: str) -> bytes:
    """Return the SHA-256 of a tool's name and its arguments, JSON text with sorted keys."""
    return hashlib.sha256(f"{name}\n{arguments}".encode()).digest()


def idempotency_key(thread_key: str, origin: uuid.UUID, place: str, ordinal: int) -> str:
    """Return the key of a call: a UUID that is the same whenever the call is made again.

    `place` is where the call stands in the graph. The key holds the thread, because a turn id is
    unique only in its tenant.
    """
    return str(uuid.uuid5(_KEYS, f"{thread_key}\n{origin}\n{place}\n{ordinal}"))
