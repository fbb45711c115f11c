"""The fold gives what the ledger holds, whatever crashed, repeated or came late."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from random import Random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.chaos.second_fold import digest_of_fold, digest_of_records
from turnstream.schemas.fold.fold import ThreadFold, Verdict, add_keep, covers, is_kept
from turnstream.schemas.fold.transcript import transcript
from turnstream.schemas.records.events import (
    AttemptStarted,
    CustomEmitted,
    InputResolved,
    Keep,
    TurnCancelled,
    TurnCompleted,
    TurnEnded,
    UnknownEvent,
)
from turnstream.schemas.records.known import schemas_by_name

sys.path.insert(0, str(Path(__file__).parent))
from histories import TURN, History

SEEDS = st.integers(0, 2**32)
VECTORS = Path(__file__).parents[1] / "vectors" / "fold.json"


def _fold(records):
    fold = ThreadFold()
    changes = [fold.apply(record, offset) for offset, record in enumerate(records)]
    return fold, changes


def _shown(fold):
    return [item.event_id for item in fold.turns[TURN].items]


@given(SEEDS)
@settings(max_examples=400, deadline=None)
def test_a_reader_of_the_whole_log_shows_what_the_ledger_holds(seed):
    history = History(Random(seed)).run()
    fold, changes = _fold(history.log)
    view = fold.turns[TURN]
    assert _shown(fold) == history.truth
    assert view.done
    assert not view.partial
    assert view.gaps == 0
    assert isinstance(view.terminal, TurnCompleted)
    assert sum(change.verdict is Verdict.GAP for change in changes) == 0


@given(SEEDS)
@settings(max_examples=200, deadline=None)
def test_changes_add_up_to_the_view(seed):
    """A reader that only follows the changes shows the same as the view."""
    shown: list[str] = []
    for change in _fold(History(Random(seed)).run().log)[1]:
        gone = {item.event_id for item in change.dropped}
        shown = [event_id for event_id in shown if event_id not in gone]
        added = change.verdict in {Verdict.ACCEPTED, Verdict.REWOUND}
        if added and not change.record.terminal and not isinstance(change.record, AttemptStarted):
            shown.append(change.record.event_id)
    assert shown == History(Random(seed)).run().truth


@given(SEEDS, SEEDS)
@settings(max_examples=200, deadline=None)
def test_records_read_twice_change_nothing(seed, other):
    history = History(Random(seed)).run()
    rng, log = Random(other), []
    for record in history.log:
        log.append(record)
        if rng.random() < 0.3:  # a reader that was restarted reads some of the tail again
            log.extend(log[-rng.randint(1, len(log)) :])
    fold, _ = _fold(log)
    assert _shown(fold) == history.truth
    assert fold.turns[TURN].gaps == 0


@given(SEEDS, st.floats(0, 1))
@settings(max_examples=400, deadline=None)
def test_a_reader_from_the_middle_is_right_or_says_partial(seed, share):
    history = History(Random(seed)).run()
    fold, _ = _fold(history.log[int(share * (len(history.log) - 1)) :])
    view = fold.turns.get(TURN)
    if view is not None and view.done and not view.partial:
        assert _shown(fold) == history.truth


@given(st.lists(st.sampled_from(["a", "a|b", "a|b|", "ab", "a|", "b|c|d", "b"]), max_size=8))
def test_keep_never_holds_an_entry_under_another(paths):
    keep: tuple[Keep, ...] = ()
    for n, path in enumerate(paths, 1):
        keep = add_keep(keep, Keep(path, n))
        assert keep[-1] == Keep(path, n)
        assert not any(covers(path, entry.path) for entry in keep[:-1])


def test_a_bar_names_what_is_under_a_task_only():
    assert covers("a|", "a|b")
    assert not covers("a|", "a")
    assert covers("a", "a|b")
    assert not covers("a", "ab")
    assert is_kept("a|b", 3, [Keep("a|", 3)])
    assert not is_kept("a|b", 4, [Keep("a|", 3)])


def _event(kind, epoch, n, **fields):
    return kind(
        event_id=f"{TURN}-{epoch}-{n}", tenant="t", thread_id="x", turn_id=TURN,
        epoch=epoch, n=n, **fields,
    )  # fmt: skip


def test_a_gap_is_counted_and_shown():
    start = _event(AttemptStarted, 1, 0, reason="first", base=0, keep_n=0, high_n=0)
    fold, changes = _fold([start, _event(CustomEmitted, 1, 2, name="x", payload="")])
    assert changes[-1].verdict is Verdict.GAP
    assert fold.turns[TURN].gaps == 1


def test_done_is_final_within_a_timeline_only():
    later = (2 << 40) + 1
    ended = _event(TurnEnded, 1 << 40, 1, outcome="cancelled")
    again = _event(AttemptStarted, (1 << 40) + 1, 0, reason="first", base=0, keep_n=0, high_n=0)
    restored = _event(AttemptStarted, later, 0, reason="first", base=0, keep_n=0, high_n=0)
    fold, changes = _fold([ended, again, restored])
    assert [change.verdict for change in changes] == [
        Verdict.ACCEPTED, Verdict.IGNORED, Verdict.STARTED,
    ]  # fmt: skip
    assert not fold.turns[TURN].done


LATER = 2 << 40


def _attempt(epoch, *, decided_by=0, high_n=0, keep_n=0):
    """Return the start of an attempt, which finds the outcome of another one or none."""
    reason = "decided" if decided_by else "again"
    return _event(
        AttemptStarted, epoch, high_n, reason=reason, base=decided_by, keep_n=keep_n, high_n=high_n
    )


def _ended_turn():
    said = _event(CustomEmitted, 1, 1, name="x", payload="")
    return [_attempt(1), said, _event(TurnCompleted, 1, 2)]


@pytest.mark.parametrize("owners", [(1,), (1, 2)], ids=["its attempt", "the next one"])
def test_an_end_that_is_said_again_in_a_later_timeline_changes_nothing(owners):
    """The standby took over between the end's ack and the closing of the turn; no row is lost."""
    records = _ended_turn()
    if len(owners) > 1:  # the attempt that decided died before it said the end
        records[2:] = [
            _attempt(2, decided_by=1, high_n=1, keep_n=1),
            _event(TurnCompleted, 2, 2),
        ]
    before, _ = _fold(records)
    again = [
        _attempt(LATER + 1, decided_by=1, high_n=1, keep_n=1),
        _event(TurnCompleted, LATER + 1, 2),
        _attempt(LATER + 2, decided_by=1, high_n=1, keep_n=1),
        _event(TurnCompleted, LATER + 2, 2),
    ]
    fold, changes = _fold([*records, *again])
    assert {change.verdict for change in changes[len(records) :]} == {Verdict.IGNORED}
    assert fold.turns[TURN].terminal == before.turns[TURN].terminal
    assert _shown(fold) == _shown(before)
    assert fold.turns[TURN].done
    assert digest_of_records([*records, *again]) == digest_of_fold(fold)
    # a restore to before the outcome
    fold, changes = _fold([*records, *again, _attempt(3 << 40)])
    assert changes[-1].verdict is Verdict.REWOUND
    assert not fold.turns[TURN].done


def test_an_unclaimed_end_that_is_said_again_changes_nothing():
    ends = [_event(TurnEnded, epoch, 1, outcome="cancelled") for epoch in (1 << 40, LATER, LATER)]
    other = _event(TurnEnded, 3 << 40, 1, outcome="failed", code="expired")
    fold, changes = _fold([*ends, other])
    assert [change.verdict for change in changes] == [
        Verdict.ACCEPTED, Verdict.IGNORED, Verdict.IGNORED, Verdict.ACCEPTED,
    ]  # fmt: skip
    assert fold.turns[TURN].terminal == other
    assert digest_of_records([*ends, other]) == digest_of_fold(fold)


def test_another_end_than_the_one_that_is_shown_is_said():
    """Put back to before its end, it ends anew; put back once more, the first end stands."""
    anew = [
        _attempt(LATER + 1),
        _event(CustomEmitted, LATER + 1, 1, name="x", payload=""),
        _event(TurnCancelled, LATER + 1, 2, cause="user"),
    ]
    first = [
        _attempt(2 * LATER, decided_by=1, high_n=1, keep_n=1),
        _event(TurnCompleted, 2 * LATER, 2),
    ]
    fold, changes = _fold([*_ended_turn(), *anew, *first])
    assert [change.verdict for change in changes[-2:]] == [Verdict.STARTED, Verdict.ACCEPTED]
    assert isinstance(fold.turns[TURN].terminal, TurnCompleted)
    assert digest_of_records([*_ended_turn(), *anew, *first]) == digest_of_fold(fold)


def test_a_rollback_takes_all_of_the_turn_back():
    start = _event(AttemptStarted, 1, 0, reason="first", base=0, keep_n=0, high_n=0)
    said = [_event(CustomEmitted, 1, n, name="x", payload=str(n)) for n in (1, 2)]
    cancelled = _event(TurnCancelled, 1, 3, cause="rollback")
    fold, changes = _fold([start, *said, cancelled, cancelled])
    assert [change.verdict for change in changes[3:]] == [Verdict.REWOUND, Verdict.IGNORED]
    assert list(changes[3].dropped) == said
    assert transcript(fold.turns[TURN]).entries == []
    # any other cause keeps what was said
    fold, changes = _fold([start, *said, _event(TurnCancelled, 1, 3, cause="interrupt")])
    assert (changes[3].verdict, changes[3].dropped) == (Verdict.ACCEPTED, ())
    assert len(transcript(fold.turns[TURN]).entries) == 2


def test_a_thread_event_counts_with_a_higher_rev_only():
    def resolved(rev):
        return _event(InputResolved, 0, 0, interrupt_id="i", rev=rev)

    _, changes = _fold([resolved(5), resolved(4), resolved(5), resolved(6)])
    assert [change.verdict for change in changes] == [
        Verdict.THREAD, Verdict.IGNORED, Verdict.IGNORED, Verdict.THREAD,
    ]  # fmt: skip


def test_an_unknown_type_is_kept_and_counted():
    fold, changes = _fold([UnknownEvent(type="Later", data=b"")])
    assert changes[0].verdict is Verdict.UNKNOWN
    assert fold.unknown == 1


@pytest.mark.parametrize("vector", json.loads(VECTORS.read_text()), ids=lambda one: one["name"])
def test_vectors(vector):
    """The published vectors, which readers in other languages run too."""
    known = schemas_by_name()
    records = [msgspec.convert(fields, known[name].struct) for name, fields in vector["records"]]
    fold, changes = _fold(records)
    assert [change.verdict.value for change in changes] == vector["verdicts"]
    shown = {
        turn_id: {
            "items": [item.event_id for item in view.items],
            "partial": view.partial,
            "done": view.done,
            "terminal": type(view.terminal).__name__ if view.terminal else None,
        }
        for turn_id, view in fold.turns.items()
    }
    assert shown == vector["turns"]
