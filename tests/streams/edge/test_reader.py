"""One reader of one thread, fed with records: what it forgets of turns that are over."""

from __future__ import annotations

from turnstream.schemas import events as ev
from turnstream.schemas.fold import TIMELINE_BITS
from turnstream.streams.edge.reader import ENDED_TURNS_KEPT, Reader


class Plain:
    """A decoder of records that are none's bytes."""

    def decode(self, data):
        return data


def fed(reader, *said):
    """Give a reader (kind, turn, epoch, n, fields); returns the kinds and turns of its steps."""
    shown = []
    for offset, (kind, turn, epoch, n, fields) in enumerate(said):
        record = kind(
            event_id=f"{turn}-{epoch}-{n}", tenant="t", thread_id="a", turn_id=turn,
            epoch=epoch, n=n, **fields,
        )  # fmt: skip
        if reader.take(offset, record) is not None:
            shown.append((kind.__name__, turn))
    return shown


def begins(turn, epoch):
    return (
        ev.AttemptStarted,
        turn,
        epoch,
        0,
        {"reason": "first", "base": 0, "keep_n": 0, "high_n": 0},
    )


def ends(turn, epoch):
    return ev.TurnCompleted, turn, epoch, 1, {}


def ends_unclaimed(turn, epoch):
    return ev.TurnEnded, turn, epoch, 1, {"outcome": "failed", "code": "expired"}


def test_a_turn_that_runs_again_is_not_forgotten_while_it_runs():
    """The database was put back; an unclaimed end comes again in the middle of the first turn."""
    first, second = 1 << TIMELINE_BITS, 2 << TIMELINE_BITS
    turns = [f"t{number}" for number in range(ENDED_TURNS_KEPT)]
    reader = Reader(1, Plain())
    fed(reader, ends_unclaimed("late", first))
    for epoch, turn in enumerate(turns, first + 1):
        fed(reader, begins(turn, epoch), ends(turn, epoch))
    again = second + 1
    shown = fed(
        reader, begins(turns[0], again), ends_unclaimed("late", second), ends(turns[0], again)
    )
    assert shown == [("AttemptStarted", "t0"), ("TurnEnded", "late"), ("TurnCompleted", "t0")]
