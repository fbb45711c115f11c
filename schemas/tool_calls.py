"""Calls of tools that may take effect outside, as the ledger keeps them. Pure."""

from __future__ import annotations

import hashlib
import uuid
from typing import Any, Literal, NamedTuple

_KEYS = uuid.UUID("3d0f4b0e-59a6-5f0c-8a53-0f6c7a1de2b4")


class ToolCall(NamedTuple):
    """One call: where it stands in its chain of turns, what it asks for, and under which key.

    `path` is its task's, `ordinal` its place among the calls of that task. The two, with the
    chain's origin, name it in the ledger. `idempotency_key` is what the tool is given.
    """

    path: str
    ordinal: int
    name: str
    digest: bytes
    idempotency_key: str
    tool_call_id: str = ""


class Known(NamedTuple):
    """What the ledger held when a call was to begin.

    `new`: nothing, or that it had stopped with a question. `started`: that it began; whether it
    took effect is not known. `done`: its `result`. `other`: a call of another name or arguments.
    """

    state: Literal["new", "started", "done", "other"]
    result: Any = None


def call_digest(name: str, arguments: str) -> bytes:
    """Return the SHA-256 of a tool's name and its arguments, JSON text with sorted keys."""
    return hashlib.sha256(f"{name}\n{arguments}".encode()).digest()


def idempotency_key(thread_key: str, origin: uuid.UUID, place: str, ordinal: int) -> str:
    """Return the key of a call: a UUID that is the same whenever the call is made again.

    `place` says where in the graph the call stands. A turn id is unique in its tenant only, hence
    the thread.
    """
    return str(uuid.uuid5(_KEYS, f"{thread_key}\n{origin}\n{place}\n{ordinal}"))
