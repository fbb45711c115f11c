"""A fold of a thread's records written a second time from the rules alone, and digests of both.

It shares no code with `turnstream.schemas.fold.fold`: records are read by the names of their types
and fields, as a reader in another language would.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

TIMELINE = 1 << 40
_TERMINALS = {"TurnCompleted", "TurnInterrupted", "TurnCancelled", "TurnRejected", "TurnFailed"}


def digest_of_records(records: list[Any]) -> str:
    """Fold a thread's records by F1 to F5 and return the digest of what stands."""
    turns: dict[str, dict[str, Any]] = {}
    for record in records:
        kind = type(record).__name__
        if kind not in ("InputResolved", "UnknownEvent"):
            turn = turns.setdefault(
                record.turn_id,
                {
                    "epoch": 0,
                    "last": 0,
                    "items": [],
                    "partial": False,
                    "end": None,
                    "gaps": 0,
                    "of": None,
                },
            )
            _take(turn, kind, record)
    return _digest(
        {
            turn_id: [t["partial"], t["gaps"], t["end"], [item[2] for item in t["items"]]]
            for turn_id, t in turns.items()
        }
    )


def digest_of_fold(fold: Any) -> str:
    """Return the same digest of what the project's own fold holds."""
    return _digest(
        {
            turn_id: [
                view.partial,
                view.gaps,
                view.terminal.event_id if view.terminal is not None else None,
                [item.event_id for item in view.items],
            ]
            for turn_id, view in fold.turns.items()
        }
    )


def _take(turn: dict[str, Any], kind: str, record: Any) -> None:
    epoch = record.epoch
    if turn["end"] is not None and not epoch // TIMELINE > turn["epoch"] // TIMELINE:
        return
    if kind == "AttemptStarted":
        if epoch > turn["epoch"]:
            of = (record.base if record.reason == "decided" else 0) or epoch
            if turn["end"] is not None and turn["of"] == of:
                turn["epoch"] = epoch
            else:
                _begin(turn, record)
                turn["of"] = of
        return
    if kind == "TurnEnded":
        how = (record.outcome, record.code)
        if epoch > turn["epoch"] and turn["end"] is not None and turn["of"] == how:
            turn["epoch"] = epoch
        elif epoch > turn["epoch"]:
            turn.update(epoch=epoch, last=1, items=[], partial=False, end=record.event_id, of=how)
        return
    if epoch < turn["epoch"]:
        return
    if epoch > turn["epoch"]:
        turn.update(epoch=epoch, last=record.n - 1, items=[], partial=True, end=None, of=None)
    if record.n <= turn["last"]:
        return
    if record.n != turn["last"] + 1:
        turn["gaps"] += 1
        return
    turn["last"] = record.n
    if kind == "TaskRetried":
        turn["items"] = [
            item
            for item in turn["items"]
            if not _under(record.path, item[0]) or _named(item, record.keep)
        ]
    if kind in _TERMINALS:
        turn["end"] = record.event_id
    else:
        turn["items"].append((record.path, record.n, record.event_id))


def _begin(turn: dict[str, Any], start: Any) -> None:
    missed = start.base > turn["epoch"] or start.high_n > turn["last"]
    turn.update(
        items=[i for i in turn["items"] if i[1] <= start.keep_n or _named(i, start.keep)],
        partial=start.high_n > 0 and (turn["partial"] or missed),
        epoch=start.epoch,
        last=start.high_n,
        end=None,
    )


def _named(item: tuple[str, int, str], keep: Any) -> bool:
    return any(item[1] <= entry.n and _under(entry.path, item[0]) for entry in keep)


def _under(path: str, other: str) -> bool:
    """At or under a path; with a bar at its end, under it alone."""
    parts, others = path.rstrip("|").split("|"), other.split("|")
    if others[: len(parts)] != parts:
        return False
    return len(others) > len(parts) or not path.endswith("|")


def _digest(shown: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(shown, sort_keys=True).encode()).hexdigest()
