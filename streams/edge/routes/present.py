"""Runs, threads and assistants in the SDK's JSON form. Pure."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec

from turnstream.connectors.avro import Codec
from turnstream.schemas.errors import InvalidRequestError, UndecodableError
from turnstream.schemas.ids import assistant_id_of
from turnstream.schemas.records.commands import ResumeTurn, StartTurn
from turnstream.streams.edge.ask.run_request import MODES, SUBGRAPHS
from turnstream.streams.edge.routes.deps import thread_id_of
from turnstream.streams.edge.surfaces.run_endings import run_status
from turnstream.streams.edge.surfaces.run_events import MODES as ALL_MODES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from turnstream.connectors.postgres.ledger.ledger import TurnRow
    from turnstream.connectors.postgres.stores.threads import ThreadInfo
    from turnstream.streams.edge.surfaces.state_json import StateJson

_stored = Codec()  # the ledger keeps commands in single-object encoding
# graphs are part of the deployment: they have no time of their own
_EPOCH = datetime.fromtimestamp(0, UTC)


def run_json(row: TurnRow) -> dict[str, object]:
    """Return a turn as a `Run`."""
    about = _command(row.body)
    outcome = row.outcome
    run = {
        "run_id": str(row.turn_id),
        "thread_id": thread_id_of(row.thread_key),
        "assistant_id": assistant_id_of(row.graph),
        "created_at": row.created_at,
        "updated_at": row.closed_at or row.created_at,
        "status": run_status(row.status, outcome.code if outcome else ""),
        "metadata": _object(about.metadata) if about else {},
        "kwargs": {"config": _object(about.config) if about else {}},
        "multitask_strategy": about.on_busy if isinstance(about, StartTurn) else "enqueue",
    }
    if outcome is not None and outcome.status == "cancelled":
        run["cancel_reason"] = outcome.code or None
    return run


def shows_subgraphs(row: TurnRow) -> bool:
    """Return whether a run was started to show nested graphs."""
    about = _command(row.body)
    return about is not None and _object(about.config).get(SUBGRAPHS) is True


def shown_modes(row: TurnRow) -> frozenset[str]:
    """Return the stream modes that a run's start named."""
    about = _command(row.body)
    given = _object(about.config).get(MODES) if about is not None else None
    named = given if isinstance(given, list) else ()
    return ALL_MODES.intersection(one for one in named if isinstance(one, str))


def new_run_json(
    run_id: str, thread_id: str, graph: str, metadata: dict[str, object], strategy: str
) -> dict[str, object]:
    """Return the `Run` of a turn that Kafka has and the ledger not yet."""
    now = datetime.now(UTC)
    return {
        "run_id": run_id,
        "thread_id": thread_id,
        "assistant_id": assistant_id_of(graph),
        "created_at": now,
        "updated_at": now,
        "status": "pending",
        "metadata": metadata,
        "kwargs": {},
        "multitask_strategy": strategy,
    }


def thread_json(info: ThreadInfo, state: StateJson | None) -> dict[str, object]:
    """Return a thread as a `Thread`; without a state it has no values."""
    interrupts = {
        task["id"]: task["interrupts"]
        for task in (state["tasks"] if state else ())
        if task["interrupts"]
    }
    return {
        "thread_id": info.thread_id,
        "created_at": info.created_at,
        "updated_at": info.updated_at,
        "state_updated_at": info.updated_at,
        "metadata": info.metadata,
        "status": info.status,
        "config": {},
        "values": state["values"] if state else None,
        "interrupts": interrupts,
    }


def assistant_json(name: str, description: str) -> dict[str, object]:
    """Return a graph as an `Assistant`."""
    return {
        "assistant_id": assistant_id_of(name),
        "graph_id": name,
        "name": name,
        "description": description or None,
        "config": {},
        "context": {},
        "metadata": {"created_by": "system"},
        "version": 1,
        "created_at": _EPOCH,
        "updated_at": _EPOCH,
    }


def selected(value: Mapping[str, object], select: Sequence[str] | None) -> Mapping[str, object]:
    """Return the fields asked for; `values.<key>` is one key of the values.

    Raises `InvalidRequestError` (`unknown_field`).
    """
    if not select:
        return value
    out: dict[str, object] = {}
    chosen: dict[str, dict[str, object]] = {}
    for name in select:
        top, _, key = name.partition(".")
        if top not in value or (key and top != "values"):
            raise InvalidRequestError(
                f"select: unknown field {name[:100]!r}", code="unknown_field", field="select"
            )
        if not key:
            out[top] = value[top]
            continue
        values = value["values"]
        chosen.setdefault("values", {})
        if isinstance(values, dict) and key in values:
            chosen["values"][key] = values[key]
    return {**chosen, **out}


def _command(body: bytes) -> StartTurn | ResumeTurn | None:
    try:
        command = _stored.decode(body)
    except UndecodableError:
        return None
    return command if isinstance(command, StartTurn | ResumeTurn) else None


def _object(text: str) -> dict[str, object]:
    try:
        return msgspec.json.decode(text, type=dict[str, object]) if text else {}
    except msgspec.DecodeError:
        return {}
