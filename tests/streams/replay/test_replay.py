"""What a replay says of a thread: pure."""

from __future__ import annotations

from typing import Any

from turnstream.schemas.ids import event_id
from turnstream.schemas.records.events import (
    AttemptStarted,
    CheckpointSaved,
    Event,
    InputResolved,
    MessageFinished,
    MessageStarted,
    TokensEmitted,
    TurnCancelled,
    TurnCompleted,
)
from turnstream.schemas.text import text_sha256
from turnstream.streams.cli.transcript import as_json
from turnstream.streams.replay.view import Replay, ThreadReplay

TURN = "018f0000-0000-7000-8000-000000000001"


def say(what: type[Event], n: int, epoch: int = 1, turn_id: str = TURN, **fields: Any) -> Event:
    return what(
        event_id=event_id(turn_id, epoch, n),
        tenant="default",
        thread_id="t",
        turn_id=turn_id,
        epoch=epoch,
        n=n,
        at=1_000_000 * (epoch * 100 + n),
        **fields,
    )


def start(epoch: int = 1, keep_n: int = 0, high_n: int = 0, base: int = 0) -> Event:
    reason = "first" if epoch == 1 else "again"
    return say(
        AttemptStarted,
        high_n,
        epoch,
        reason=reason,
        base=base,
        keep_n=keep_n,
        high_n=high_n,
        source_topic="turns.default",
        source_partition=0,
        source_offset=7,
    )


def whole_turn(text: str = "Hello", sha256: str = "") -> list[Event]:
    digest = sha256 or text_sha256(text)
    return [
        start(),
        say(MessageStarted, 1, message_id="m"),
        say(TokensEmitted, 2, message_id="m", block=0, kind="text", text=text[:2]),
        say(TokensEmitted, 3, message_id="m", block=0, kind="text", text=text[2:]),
        say(MessageFinished, 4, message_id="m", sha256=digest),
        say(CheckpointSaved, 5, checkpoint_id="c"),
        say(TurnCompleted, 6, message_id="m", text=text, sha256=text_sha256(text)),
    ]


def replay(records: list[Event], first: int = 0) -> ThreadReplay:
    one = Replay("default/t", partition=3, first=first, end=1000)
    for offset, record in enumerate(records, start=first):
        one.apply(record, offset)
    return one.result


def test_a_whole_turn_matches_its_digests():
    thread = replay(whole_turn("Grüße, 세계"))

    turn = thread.turns[TURN]
    assert turn.state == "whole"
    assert [(check.what, check.verdict) for check in turn.checks] == [
        ("message m", "match"),
        ("outcome", "match"),
    ]
    assert thread.problems == []
    assert turn.source == ("turns.default", 0, 7)
    assert turn.first_token_at == 102_000_000
    assert turn.attempts[0].first_token_at == 102_000_000


def test_a_changed_text_is_a_mismatch():
    records = whole_turn("Hello")
    records[3] = say(TokensEmitted, 3, message_id="m", block=0, kind="text", text="LLO")

    thread = replay(records)

    verdicts = {check.what: check.verdict for check in thread.turns[TURN].checks}
    assert verdicts == {
        "message m": "mismatch",
        "outcome": "match",
        "outcome against messages": "mismatch",
    }
    assert any("message m has SHA-256" in problem for problem in thread.problems)


def test_a_missing_event_is_a_gap():
    thread = replay([record for record in whole_turn() if record.n != 3])

    assert any("gaps between events" in problem for problem in thread.problems)


def test_a_second_attempt_takes_back_and_goes_on():
    first = whole_turn("Hello")[:3]
    second = [
        start(epoch=2, keep_n=0, high_n=2, base=0),
        say(MessageStarted, 3, 2, message_id="m"),
        say(TokensEmitted, 4, 2, message_id="m", block=0, kind="text", text="Again"),
        say(MessageFinished, 5, 2, message_id="m", sha256=text_sha256("Again")),
        say(TurnCompleted, 6, 2, message_id="m", text="Again", sha256=text_sha256("Again")),
    ]
    zombie = say(TokensEmitted, 3, 1, message_id="m", block=0, kind="text", text="llo")

    thread = replay([*first, second[0], zombie, *second[1:]])

    turn = thread.turns[TURN]
    assert thread.problems == []
    assert [attempt.epoch for attempt in turn.attempts] == [1, 2]
    assert turn.attempts[1].taken_back == 2
    assert [(r.why, r.items) for r in turn.rewinds] == [("AttemptStarted", 2)]
    assert turn.void == 1
    assert turn.shown.messages[0].text == "Again"


def test_a_log_without_the_beginning_gives_a_partial_turn():
    thread = replay(whole_turn()[3:], first=500)

    turn = thread.turns[TURN]
    assert turn.state == "partial"
    assert thread.problems == []
    assert turn.view.terminal is not None
    assert turn.view.terminal.text == "Hello"  # what a reader shows instead


def test_a_log_that_begins_at_0_cannot_be_partial():
    thread = replay(whole_turn()[3:], first=0)

    assert any("lacks the turn's beginning" in problem for problem in thread.problems)


def test_a_truncated_log_makes_an_open_turn_provisional():
    assert replay(whole_turn()[:4], first=500).turns[TURN].state == "provisional"
    assert replay(whole_turn()[:4], first=0).turns[TURN].state == "whole"


def test_a_cancelled_turn_keeps_its_text():
    records = [
        *whole_turn("Hello")[:4],
        say(TurnCancelled, 4, cause="user", text="Hello", sha256=text_sha256("Hello")),
    ]

    checks = replay(records).turns[TURN].checks

    assert [(check.what, check.verdict) for check in checks] == [
        ("message m", "open"),
        ("outcome", "match"),
    ]


def test_resolved_questions_and_unreadable_records_are_kept():
    one = Replay("default/t", partition=0, first=0, end=9)
    for rev in (3, 2, 4):
        one.apply(say(InputResolved, 0, 0, actor="ann", interrupt_id="i", rev=rev), rev)
    one.undecodable(5, "not ours")

    assert [resolved.rev for resolved in one.result.resolved] == [3, 4]
    assert as_json(one.result)["resolved"][1] == {"interrupt_id": "i", "actor": "ann", "rev": 4}
    assert one.result.problems == ["offset 5 cannot be read: not ours"]
