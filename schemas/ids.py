"""Ids and keys: thread keys, turn ids, event ids. Pure, except for `new_turn_id`."""

from __future__ import annotations

import re
import uuid
from functools import lru_cache

from uuid_utils.compat import uuid7

from turnstream.schemas.errors import InvalidRequestError

THREAD_ID_CHARS_MAX = 200
TENANT_CHARS_MAX = 100
_TENANT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
# what may stand in a thread id: any printable character but white space at the ends and "/"
_TURN_IDS = uuid.UUID("6f1d8a52-0f3b-5b7e-9c6e-3a1f64c0d9b1")

GRAPH_NAMESPACE = uuid.UUID("6ba7b821-9dad-11d1-80b4-00c04fd430c8")
"""In which LangGraph's server derives an assistant's id from its graph's name."""


@lru_cache(maxsize=1024)
def assistant_id_of(graph: str) -> str:
    """Return the id of a graph's assistant, as LangGraph's server derives it."""
    return str(uuid.uuid5(GRAPH_NAMESPACE, graph))


def check_tenant(tenant: str) -> str:
    """Return the tenant's name; raises `InvalidRequestError` for one that cannot be a topic's end.

    Letters, digits, `.`, `_` and `-` only, because `turns.<tenant>` is a topic (Kafka's rule).
    """
    if len(tenant) > TENANT_CHARS_MAX or not _TENANT.fullmatch(tenant):
        raise InvalidRequestError(
            f"tenant {tenant[:40]!r}: 1 to {TENANT_CHARS_MAX} letters, digits, '.', '_', '-'",
            code="invalid_tenant",
            field="tenant",
        )
    return tenant


def check_thread_id(thread_id: str) -> str:
    """Return the thread id; raises `InvalidRequestError` (`invalid_thread_id`).

    1 to 200 printable characters of any script; no control characters, no lone surrogates, no
    U+FFFD, no white space at the ends. A `/` is allowed: a thread key is split at its first one,
    the tenant's end.
    """
    if not thread_id:
        raise InvalidRequestError("thread_id is empty", code="invalid_thread_id", field="thread_id")
    if len(thread_id) > THREAD_ID_CHARS_MAX:
        raise InvalidRequestError(
            f"thread_id has {len(thread_id)} characters, {THREAD_ID_CHARS_MAX} are allowed",
            code="invalid_thread_id",
            field="thread_id",
        )
    if thread_id != thread_id.strip() or not thread_id.isprintable():
        raise InvalidRequestError(
            "thread_id has white space at its ends, or characters that cannot be printed",
            code="invalid_thread_id",
            field="thread_id",
        )
    if "\ufffd" in thread_id:
        # what was a lone surrogate, or came broken: two such ids must not become one thread
        raise InvalidRequestError(
            "thread_id holds U+FFFD", code="invalid_thread_id", field="thread_id"
        )
    return thread_id


def thread_key(tenant: str, thread_id: str) -> str:
    """Return the key of a thread: `tenant/thread_id`."""
    return f"{tenant}/{thread_id}"


def split_thread_key(key: str) -> tuple[str, str]:
    """Return tenant and thread id of a key; raises `InvalidRequestError` (`invalid_key`)."""
    tenant, bar, thread_id = key.partition("/")
    if not bar:
        raise InvalidRequestError(
            f"key {key[:60]!r} is not tenant/thread_id", code="invalid_key", field="key"
        )
    return tenant, thread_id


def parse_turn_id(text: str) -> uuid.UUID:
    """Return the UUID; raises `InvalidRequestError` (`invalid_turn_id`)."""
    try:
        return uuid.UUID(text)
    except ValueError:
        raise InvalidRequestError(
            f"turn_id {text[:60]!r} is not a UUID", code="invalid_turn_id", field="turn_id"
        ) from None


def turn_id_of_key(tenant: str, idempotency_key: str) -> uuid.UUID:
    """Return the turn id that a tenant's idempotency key always gives."""
    return uuid.uuid5(_TURN_IDS, f"key\n{tenant}\n{idempotency_key}")


def turn_id_of_record(topic_id: str, partition: int, offset: int) -> uuid.UUID:
    """Return the turn id of a record that has none: the same at every redelivery."""
    return uuid.uuid5(_TURN_IDS, f"record\n{topic_id}\n{partition}\n{offset}")


def new_turn_id() -> uuid.UUID:
    """Return a UUIDv7 (RFC 9562 §5.7) of now."""
    return uuid7()


def event_id(turn_id: str, epoch: int, n: int) -> str:
    """Return the id of an event: the same wherever the event is read."""
    return f"{turn_id}-{epoch}-{n}"


def result_id(turn_id: str) -> str:
    """Return the id of a turn's one result."""
    return f"{turn_id}-result"


def path_of_namespace(namespace: str) -> str:
    """Return the path of a LangGraph namespace: `node:tid|inner:tid2` gives `tid|tid2`.

    A segment without an id (a subgraph compiled with `checkpointer=True`) stays as it is.
    """
    return "|".join(part.rpartition(":")[2] for part in namespace.split("|")) if namespace else ""


def path_of_task(namespace: str, task_id: str) -> str:
    """Return the path of a task of the graph in `namespace`."""
    return f"{path_of_namespace(namespace)}|{task_id}" if namespace else task_id
