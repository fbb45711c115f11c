"""The readers of a finished schedule: the project's own, over the modelled log."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from turnstream.schemas.fold.fold import ThreadFold, TurnView, Verdict
from turnstream.schemas.records.events import CustomEmitted, Event, InputResolved
from turnstream.streams.edge.follow.reader import Reader

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import msgspec

    from tests.model.world import Client


class Shown(NamedTuple):
    """What a reader shows of one turn after a record, and what the record changed."""

    verdict: Verdict = Verdict.IGNORED
    epoch: int = 0
    items: tuple[Event, ...] = ()
    partial: bool = False
    done: bool = False
    end: Event | None = None
    gaps: int = 0

    def said(self) -> tuple[Event, ...]:
        """Return what tasks said."""
        return tuple(item for item in self.items if isinstance(item, CustomEmitted))


def shown(verdict: Verdict, view: TurnView) -> Shown:
    """Return what a live view shows now."""
    items = tuple(view.items)
    return Shown(verdict, view.epoch, items, view.partial, view.done, view.terminal, view.gaps)


class Whole:
    """A reader of the whole log: `at` holds, by turn, what is shown after so many records."""

    def __init__(self, log: Sequence[Event], turns: Sequence[str]) -> None:
        self.at: dict[str, list[Shown]] = {turn: [Shown()] for turn in turns}
        self.fold = ThreadFold()
        for record in log:
            change = self.fold.apply(record)
            view = change.turn
            for turn, steps in self.at.items():
                if view is not None and turn == view.turn_id:
                    steps.append(shown(change.verdict, view))
                else:
                    steps.append(steps[-1])

    def steps(self, log: Sequence[Event], turn: str) -> Iterator[tuple[Event, Shown, Shown]]:
        """Yield the turn's records, with what was shown before and after each."""
        at = self.at[turn]
        for k, record in enumerate(log):
            if record.turn_id == turn:
                yield record, at[k], at[k + 1]


def repeated(log: Sequence[Event], again: Sequence[int]) -> Iterator[tuple[Event, Verdict]]:
    """Read all, and behind each record an earlier one again: yield that and its verdict."""
    reader = ThreadFold()
    for record, number in zip(log, again, strict=True):
        reader.apply(record)
        yield log[number], reader.apply(log[number]).verdict


def late(records: Sequence[Event], turn: str) -> Shown:
    """Return what a reader shows in the end that begins at the first of these records."""
    reader, verdict = ThreadFold(), Verdict.IGNORED
    for record in records:
        verdict = reader.apply(record).verdict
    return shown(verdict, reader.turns[turn])


class _Decoder:
    """A record's bytes are its place in the log."""

    def __init__(self, log: Sequence[Event]) -> None:
        self._log = log

    def decode(self, data: bytes) -> msgspec.Struct:
        return self._log[int(data)]


def seen(client: Client, log: Sequence[Event]) -> tuple[Reader, list[tuple[str, bool]]]:
    """Read as an edge does for a client; return whose records it is sent, and which are ends."""
    reader = Reader(_Decoder(log), begins=client.begins, fence=fence_of(client))
    for turn in over_of(client):
        reader.ended(turn, client.timeline)
    sent = []
    for offset in range(client.begins, len(log)):
        step = reader.take(offset, str(offset).encode())
        if step is not None and not isinstance(step.record, InputResolved):
            record = step.record
            if isinstance(record, Event):
                sent.append((record.turn_id, record.terminal))
    return reader, sent


def fence_of(client: Client) -> int:
    """Return the epoch below which all is void: the thread's last one is over (R1)."""
    return client.epoch + 1 if client.epoch else 0


def over_of(client: Client) -> tuple[str, ...]:
    """Return the turns whose unclaimed ends the client has (R2)."""
    return client.over
