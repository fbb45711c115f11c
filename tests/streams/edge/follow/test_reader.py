"""One reader of one thread, fed with records: what it knows once the database was put back.

`Thread` makes the log: turns run in the order of their admission, unclaimed ends come at any time
after it, and after a restore all from some turn on begins again in a later timeline.
"""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from turnstream.schemas import unexpected
from turnstream.schemas.fold.fold import TIMELINE_BITS, Verdict
from turnstream.schemas.records import events as ev
from turnstream.streams.edge.follow.cursor import Cursor
from turnstream.streams.edge.follow.reader import RUN_TURNS_KEPT, TURNS_KEPT, Reader
from turnstream.streams.edge.follow.surface import Projected
from turnstream.streams.edge.follow.thread import Thread as Watched
from turnstream.streams.edge.surfaces.protocol import Projection


class Plain:
    """A decoder of records that are none's bytes."""

    def decode(self, data):
        return data


class Said(msgspec.Struct, frozen=True):
    """A record of a log, of which a test names what matters."""

    kind: type[ev.Event]
    turn: str
    epoch: int
    n: int = 0

    def record(self):
        more = {
            ev.AttemptStarted: {"reason": "first", "base": 0, "keep_n": 0, "high_n": 0},
            ev.TokensEmitted: {"message_id": "m", "block": 0, "kind": "text", "text": "x"},
            ev.TurnEnded: {"outcome": "failed", "code": "expired"},
        }
        return self.kind(
            event_id=f"{self.turn}-{self.epoch}-{self.n}",
            tenant="t",
            thread_id="a",
            turn_id=self.turn,
            epoch=self.epoch,
            n=self.n,
            **more.get(self.kind, {}),
        )


def begins(turn, epoch):
    return [Said(ev.AttemptStarted, turn, epoch), Said(ev.TokensEmitted, turn, epoch, 1)]


def ends(turn, epoch):
    return [Said(ev.TurnCompleted, turn, epoch, 2)]


def ends_unclaimed(turn, timeline):
    return [Said(ev.TurnEnded, turn, timeline << TIMELINE_BITS, 1)]


def runs(turn, epoch):
    return begins(turn, epoch) + ends(turn, epoch)


class Client:
    """What stays connected to a reader sees; fails where a turn is shown beside its first run."""

    def __init__(self):
        self.reader = Reader(Plain())
        self.offset = 0
        self.shown = set()
        self.ends = set()
        self.resets = 0

    def reads(self, *parts):
        for said in (one for part in parts for one in part):
            step = self.reader.take(self.offset, said.record())
            self.offset += 1
            if step is None:
                continue
            if step.voids:
                self.resets += 1
                self.shown.clear()
            if step.change.verdict is Verdict.REWOUND:
                self.shown.discard(said.turn)
            if said.kind is ev.AttemptStarted:
                assert said.turn not in self.shown, "shown twice"
            if said.kind is ev.TokensEmitted:
                self.shown.add(said.turn)
            if step.record.terminal:
                self.ends.add((said.turn, said.epoch >> TIMELINE_BITS))


FIRST, SECOND, THIRD = 1 << TIMELINE_BITS, 2 << TIMELINE_BITS, 3 << TIMELINE_BITS
TURNS = [f"t{number}" for number in range(RUN_TURNS_KEPT)]


def has_run(*turns):
    client = Client()
    for epoch, turn in enumerate(turns, FIRST + 1):
        client.reads(runs(turn, epoch))
    return client


def test_a_turn_that_runs_again_is_not_forgotten_while_it_runs():
    """The database was put back; an unclaimed end comes again in the middle of the first turn."""
    client = Client()
    client.reads(ends_unclaimed("late", 1))
    for epoch, turn in enumerate(TURNS, FIRST + 1):
        client.reads(runs(turn, epoch))
    again = SECOND + 1
    client.reads(begins("t0", again), ends_unclaimed("late", 2), ends("t0", again))
    assert client.ends == {*((turn, 1) for turn in ("late", *TURNS)), ("t0", 2)}
    assert not client.resets


def test_turns_that_are_to_run_again_are_known_whatever_ends_before():
    client = has_run(*TURNS)
    client.reads(begins("t0", SECOND + 1))
    for number in range(2 * RUN_TURNS_KEPT):
        client.reads(ends_unclaimed(f"u{number}", 2))
    client.reads(ends("t0", SECOND + 1))
    for epoch, turn in enumerate(TURNS[1:], SECOND + 2):
        client.reads(runs(turn, epoch))
    assert {(turn, 2) for turn in TURNS} <= client.ends
    assert not client.resets


def test_a_reader_that_cannot_say_what_is_void_knows_nothing_any_more():
    turns = ["forgotten", *TURNS]
    client = has_run(*turns)
    for epoch, turn in enumerate(turns, SECOND + 1):
        client.reads(runs(turn, epoch))
    assert client.resets == 1
    assert {(turn, 2) for turn in turns} <= client.ends
    # what was said before and comes late is void, too
    assert client.reader.take(client.offset, begins("t9", FIRST + 99)[0].record()) is None


def test_turns_are_forgotten():
    client = has_run(*(f"t{number}" for number in range(3 * TURNS_KEPT)))
    assert len(client.reader.fold.turns) == RUN_TURNS_KEPT
    for number in range(3 * TURNS_KEPT):
        client.reads(ends_unclaimed(f"u{number}", 1))
    assert len(client.reader.fold.turns) == TURNS_KEPT


class Thread:
    """The log of a thread of `count` turns: they run, but for those that always end unclaimed."""

    def __init__(self, draw, count):
        self.draw = draw
        self.turns = [f"t{number}" for number in range(count)]
        self.unclaimed = {turn for turn in self.turns if draw(st.integers(0, 4)) == 0}
        self.epoch = 0

    def timeline(self, timeline, since, until):
        """Return what is said from one turn to another; the last may be in its middle."""
        self.epoch = max(self.epoch, timeline << TIMELINE_BITS)
        turns = self.turns[since:until]
        said = []
        for turn in (turn for turn in turns if turn not in self.unclaimed):
            self.epoch += 1
            said += runs(turn, self.epoch)
        for turn in (turn for turn in turns if turn in self.unclaimed):
            at = self.draw(st.integers(0, len(said)))
            said[at:at] = ends_unclaimed(turn, timeline)
        return said


@given(st.data())
def test_no_turn_is_shown_twice_and_every_end_is_seen(data):
    """Whatever is put back, and however often."""
    count = data.draw(st.integers(1, 3 * RUN_TURNS_KEPT))
    thread, client = Thread(data.draw, count), Client()
    since = 0
    for timeline in range(1, data.draw(st.integers(2, 4))):
        until = data.draw(st.integers(since + 1, count))
        said = thread.timeline(timeline, since, until)
        client.reads(said[: data.draw(st.integers(1, len(said)))])
        since = data.draw(st.integers(0, until - 1))
    last = thread.timeline(4, since, count)
    client.reads(last)
    assert {
        (turn, 4) for turn in thread.turns[since:] if turn not in thread.unclaimed
    } <= client.ends
    assert set(thread.turns[since:]) <= {turn for turn, _ in client.ends}


def test_a_record_that_cannot_be_shown_is_left_out_and_what_follows_is_read():
    """Anybody who may write to the topic can write an event whose fields hold anything."""
    before = unexpected.counts().get("edge_surface", 0)
    thread = Watched("t/a", Plain())
    reader, steps, events = Reader(Plain()), [], []
    projected = Projected(lambda: Projection(1))
    thread.join(Projection, projected, events.extend, reader, 0)
    thread.attach(steps.append, reader, 0)
    first = Said(ev.AttemptStarted, "x", 1).record()
    said = [
        Said(kind, "x", 1, n).record()
        for n, kind in enumerate((ev.TokensEmitted, ev.TurnCompleted), start=6)
    ]
    hostile = [
        ev.MessageStarted(
            event_id="e",
            tenant="t",
            thread_id="a",
            turn_id="x",
            epoch=1,
            n=number,
            message_id=f"m{number}",
            metadata=metadata,
        )
        for number, metadata in enumerate(("{", "\x00", "[" * 100_000, "1e999", "[1]"), 1)
    ]
    thread.sink(0, 0, first)
    for offset, record in enumerate(hostile, start=1):
        thread.sink(0, offset, record)
    assert unexpected.counts().get("edge_surface", 0) - before == len(hostile)
    assert [step.record for step in steps] == [first, *hostile], "only a surface cannot show them"
    for offset, record in enumerate(said, start=100):
        thread.sink(0, offset, record)
    assert steps[-1].offset == 101
    assert isinstance(steps[-1].record, ev.TurnCompleted)
    assert Cursor.of_seq(events[-1].seq).offset == 101
    assert b'"completed"' in events[-1].data


def test_a_record_that_nobody_can_read_is_left_out_and_what_follows_is_read():
    class Broken:
        def decode(self, data):
            return {"ok": Said(ev.AttemptStarted, "x", 1).record()}[data]

    before = unexpected.counts().get("edge_reader", 0)
    thread, reader, steps = Watched("t/a", Broken()), Reader(Broken()), []
    thread.attach(steps.append, reader, 0)
    for offset, value in enumerate(("odd", "ok")):
        thread.sink(0, offset, value)
    assert unexpected.counts().get("edge_reader", 0) - before == reader.undecodable == 1
    assert [step.offset for step in steps] == [1]
