"""Invariants of what readers show: see `invariants.py` for their names."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from tests.model import readers
from tests.model.records import LIFE, outcome_of, text_of
from turnstream.schemas.fold.fold import Verdict, rolled_back
from turnstream.schemas.records.events import (
    AttemptStarted,
    Event,
    InputResolved,
    TaskRetried,
    TurnCancelled,
    TurnEnded,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.model.readers import Shown, Whole
    from tests.model.rows import Turn
    from tests.model.world import World

Violation: TypeAlias = tuple[str, str]

_TAKES_BACK = (AttemptStarted, TaskRetried, TurnEnded, TurnCancelled)
LATE_READERS = 8
"""Of a turn's readers that begin in mid-log, so many are drawn."""


def violations_shown(world: World) -> Iterator[Violation]:
    """Yield violations in what readers show."""
    whole = readers.Whole(world.log, list(world.ledger.turns))
    for name, row in world.ledger.turns.items():
        yield from _records(world, whole, name)
        if row.closed:
            yield from _end(world, whole, row)
        if not world.restored:
            yield from _late(world, whole, name)
    yield from _committed(world, whole)
    yield from _repeated(world)
    yield from _board(world, whole)
    if not world.restored:
        yield from _clients(world, whole)


def _records(world: World, whole: Whole, name: str) -> Iterator[Violation]:
    for record, old, new in whole.steps(world.log, name):
        is_start = isinstance(record, AttemptStarted)
        counts = new.verdict is not Verdict.IGNORED
        if new.gaps > old.gaps or (new.partial and not is_start):
            yield "gaps", f"a gap, or no start, at {record}"
        if is_start and new.partial and not old.partial:
            yield "partial", f"partial at {record} after {old}"
        if not isinstance(record, _TAKES_BACK) and new.items[: len(old.items)] != old.items:
            yield "vanished", f"items vanished at {record}"
        if old.done and counts and record.epoch // LIFE <= old.epoch // LIFE:
            yield "ends", f"{record} counts after the end"
        if is_start and counts:
            text, outcome = world.claims[record.epoch]
            is_rollback = outcome is not None and outcome.kind == "rollback"
            if text_of(new.items) != text and not is_rollback:
                yield "found", f"{text_of(new.items)!r} after {record}, committed {text!r}"
        if counts and old.done and _is_said_again(world, old, record):
            yield "said", f"{record} is shown although its end is"


def _is_said_again(world: World, old: Shown, record: Event) -> bool:
    """Tell whether the record only says the end again that is shown."""
    if isinstance(record, TurnEnded):
        return isinstance(old.end, TurnEnded) and outcome_of(old.end) == outcome_of(record)
    if not isinstance(record, AttemptStarted) or old.end is None or isinstance(old.end, TurnEnded):
        return False
    decides = world.deciders.get(old.end.epoch, old.end.epoch)
    return decides == world.deciders.get(record.epoch)


def _late(world: World, whole: Whole, name: str) -> Iterator[Violation]:
    """Look at readers that begin in mid-log: at starts that are void, and at some other records."""
    steps = list(whole.steps(world.log, name))
    if not steps:
        return
    records, end = [step[0] for step in steps], steps[-1][2]
    begins = set(range(1, len(records)))
    if len(begins) > LATE_READERS:
        void = {
            k
            for k in begins
            if isinstance(records[k], AttemptStarted) and records[k].epoch < steps[k][1].epoch
        }
        begins = void | set(world.rng.sample(sorted(begins), LATE_READERS))
    ended_at = next((k for k, step in enumerate(steps) if step[2].done), 0)
    for k in sorted(begins):
        view = readers.late(records[k:], name)
        is_same = (view.said(), outcome_of(view.end)) == (end.said(), outcome_of(end.end))
        if view.done and not view.partial and not is_same:
            yield "late", f"begun at {records[k]}: {view} instead of {end}"
        if k <= ended_at and not view.done:
            yield "late", f"begun at {records[k]}, never ends: {view}"


def _end(world: World, whole: Whole, row: Turn) -> Iterator[Violation]:
    at, outcome = whole.at[row.turn], row.outcome
    end = at[-1]
    if outcome is None:
        yield "outcome", f"{row.turn} is closed without an outcome"
        return
    for view in (at[row.closed_at], end):
        if not view.done or outcome_of(view.end) != outcome:
            yield "ends", f"{row.turn}: shown {outcome_of(view.end)}, decided {outcome}"
    if outcome.kind == "completed":
        yield from _completed(world, row, end)
    elif outcome.kind == "rollback":
        if not rolled_back(whole.fold.turns[row.turn]):
            yield "text", f"{row.turn} is shown although it was rolled back"
    elif not row.decided_by_claim and text_of(end.items) != outcome.text:
        yield "text", f"visible {text_of(end.items)!r}, stored {outcome.text!r}"


def _committed(world: World, whole: Whole) -> Iterator[Violation]:
    for name, length, events in world.commits:
        shown = whole.at[name][length].items if name in whole.at else events
        for event in events:
            if event.turn_id == name and event not in shown:
                yield "committed", f"committed but not visible at that moment: {event}"


def _completed(world: World, row: Turn, end: Shown) -> Iterator[Violation]:
    ledger = world.ledger
    visible: dict[tuple[int, str], list[str]] = {}
    committed: dict[tuple[int, str], list[str]] = {}
    for event in end.said():
        visible.setdefault((event.epoch, event.path), []).append(event.event_id)
    for entry in ledger.state:
        for event in (event for write in entry.writes for event in write.events):
            if event.turn_id == row.turn:
                committed.setdefault((event.epoch, event.path), []).append(event.event_id)
    if visible != committed:
        yield "text", f"visible {visible}, committed {committed}"


def _repeated(world: World) -> Iterator[Violation]:
    again = [world.rng.randrange(k + 1) for k in range(len(world.log))]
    for record, verdict in readers.repeated(world.log, again):
        if verdict is not Verdict.IGNORED:
            yield "repeated", f"{record}, read again, is {verdict.value}"


def _board(world: World, whole: Whole) -> Iterator[Violation]:
    newest: dict[str, int] = {}
    for record in world.log:
        if isinstance(record, InputResolved):
            newest[record.interrupt_id] = max(newest.get(record.interrupt_id, 0), record.rev)
    board = {subject: record.rev for (_, subject), record in whole.fold.board.items()}
    if board != newest:
        yield "board", f"shown {board}, newest {newest}"


def _clients(world: World, whole: Whole) -> Iterator[Violation]:
    for client in world.clients:
        reader, sent = readers.seen(client, world.log)
        for name, at in whole.at.items():
            ends = sent.count((name, True))
            if at[client.begins].done:
                if any(turn == name for turn, _ in sent):
                    yield "client", f"{client} is sent {name}, whose end it had"
            elif ends != at[-1].done:
                yield "client", f"{client} is sent {ends} ends of {name}"
            view = reader.fold.turns.get(name)
            if view is not None and not at[client.begins].done:
                late = readers.shown(Verdict.IGNORED, view)
                if late.said() != at[-1].said() or late.partial:
                    yield "client", f"{client} is shown {late} of {name}, not {at[-1]}"
        if reader.undecodable or reader.gaps:
            yield "client", f"{client}: {reader.undecodable} undecodable, {reader.gaps} gaps"
