"""Replay `view`, the pure half: fold a thread's records and judge every text by its SHA-256.

Made by the same fold that the edge uses; `streams/replay/log.py` does the reading.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from turnstream.schemas.fold.fold import ThreadFold, TurnView, Verdict
from turnstream.schemas.fold.transcript import Transcript, transcript
from turnstream.schemas.ids import split_thread_key
from turnstream.schemas.records.events import (
    AttemptStarted,
    Event,
    InputResolved,
    TaskRetried,
    TokensEmitted,
    UnknownEvent,
)
from turnstream.schemas.text import text_sha256

if TYPE_CHECKING:
    import msgspec

    from turnstream.schemas.fold.messages import Message


@dataclass(slots=True)
class Attempt:
    """One worker's hold on the turn, and what beginning it took back."""

    epoch: int
    reason: str
    worker: str
    graph: str
    offset: int
    at: int
    keep_n: int
    high_n: int
    taken_back: int
    first_token_at: int = 0


@dataclass(slots=True)
class Rewind:
    """Items that readers had seen and were told to drop; `why` is the record's type."""

    at: int
    offset: int
    why: str
    items: int


@dataclass(frozen=True, slots=True)
class Input:
    """What the turn was asked, from its input topic; `found` is False where that is gone."""

    topic: str
    partition: int
    offset: int
    found: bool
    kind: str = ""
    text: str = ""
    payload: str = ""
    correlation_id: str = ""
    sha256: str = ""


@dataclass(frozen=True, slots=True)
class Check:
    """A text against its recorded SHA-256.

    `verdict`: `match`, `mismatch`, `partial` (differs, and the log lacks the beginning) or `open`
    (no digest is recorded, because the message was not finished).
    """

    what: str
    verdict: str
    recorded: str
    computed: str


@dataclass(slots=True)
class TurnReplay:
    """One turn: the fold's view of it, and how it came about."""

    view: TurnView
    offset: int
    first_at: int
    last_at: int = 0
    records: int = 0
    void: int = 0
    attempts: list[Attempt] = field(default_factory=list)
    rewinds: list[Rewind] = field(default_factory=list)
    retries: int = 0
    first_token_at: int = 0
    input: Input | None = None
    source: tuple[str, int, int] | None = None
    truncated: bool = False

    @property
    def state(self) -> str:
        """Return `whole`, `partial` (the beginning is lost) or `provisional` (may yet change)."""
        if self.view.partial:
            return "partial"
        return "provisional" if self.truncated and not self.view.done else "whole"

    @property
    def shown(self) -> Transcript:
        """Return what the turn shows."""
        return transcript(self.view)

    @property
    def checks(self) -> list[Check]:
        """Return one check a message, in order, and one of the terminal's text."""
        shown = self.shown
        found = [
            _check(f"message {message.message_id}", message.text, message.sha256, self.view.partial)
            for message in shown.messages
        ]
        text, digest = _terminal_text(self.view)
        if digest:
            found.append(_check("outcome", text, digest, partial=False))
            if not self.view.partial and text not in _said(shown, self.view):
                computed = text_sha256(_said(shown, self.view)[-1])
                found.append(Check("outcome against messages", "mismatch", digest, computed))
        return found

    @property
    def problems(self) -> list[str]:
        """Say what is wrong, in words; empty for a turn that holds."""
        found = [
            f"turn {self.view.turn_id}: {check.what} has SHA-256 {check.computed}, "
            f"recorded is {check.recorded}"
            for check in self.checks
            if check.verdict == "mismatch"
        ]
        if self.view.gaps:
            found.append(f"turn {self.view.turn_id}: {self.view.gaps} gaps between events")
        if self.view.partial and not self.truncated:
            found.append(
                f"turn {self.view.turn_id}: the log begins at offset 0 and still lacks the turn's "
                "beginning"
            )
        return found


@dataclass(slots=True)
class ThreadReplay:
    """A thread as one partition of the log tells it; `turns` in order of their first record."""

    tenant: str
    thread_id: str
    partition: int
    first: int
    end: int
    turns: dict[str, TurnReplay] = field(default_factory=dict)
    resolved: list[InputResolved] = field(default_factory=list)
    unknown: int = 0
    undecodable: list[tuple[int, str]] = field(default_factory=list)

    @property
    def problems(self) -> list[str]:
        """Say what is wrong with any of the turns, or with records that cannot be read."""
        found = [f"offset {offset} cannot be read: {why}" for offset, why in self.undecodable]
        for turn in self.turns.values():
            found += turn.problems
        return found


class Replay:
    """Take one thread's records in, in log order.

    `first` and `end`: the offsets that the partition held when the reading began; a `first` above 0
    says that the log has lost its beginning.
    """

    def __init__(self, key: str, partition: int, first: int, end: int) -> None:
        tenant, thread_id = split_thread_key(key)
        self.result = ThreadReplay(tenant, thread_id, partition, first, end)
        self._fold = ThreadFold()

    def apply(self, record: msgspec.Struct, offset: int) -> None:
        """Fold one record in."""
        change = self._fold.apply(record, offset)
        if isinstance(record, UnknownEvent):
            self.result.unknown += 1
        elif isinstance(record, InputResolved):
            if change.verdict is Verdict.THREAD:
                self.result.resolved.append(record)
        elif isinstance(record, Event) and change.turn is not None:
            turn = self.result.turns.get(record.turn_id)
            if turn is None:
                truncated = self.result.first > 0
                turn = TurnReplay(change.turn, offset, record.at, truncated=truncated)
                self.result.turns[record.turn_id] = turn
            _note(turn, record, offset, change.verdict, len(change.dropped))

    def undecodable(self, offset: int, why: str) -> None:
        """Note a record of the thread that is none of ours."""
        self.result.undecodable.append((offset, why))


def _note(turn: TurnReplay, record: Event, offset: int, verdict: Verdict, dropped: int) -> None:
    turn.records += 1
    if verdict is Verdict.IGNORED:
        turn.void += 1
        return
    turn.last_at = record.at
    if dropped:
        turn.rewinds.append(Rewind(record.at, offset, type(record).__name__, dropped))
    if isinstance(record, AttemptStarted):
        turn.attempts.append(
            Attempt(
                epoch=record.epoch,
                reason=record.reason,
                worker=record.worker,
                graph=record.graph,
                offset=offset,
                at=record.at,
                keep_n=record.keep_n,
                high_n=record.high_n,
                taken_back=dropped,
            )
        )
        if record.source_topic:
            turn.source = (record.source_topic, record.source_partition, record.source_offset)
    elif isinstance(record, TokensEmitted):
        turn.first_token_at = turn.first_token_at or record.at
        if turn.attempts and not turn.attempts[-1].first_token_at:
            turn.attempts[-1].first_token_at = record.at
    elif isinstance(record, TaskRetried):
        turn.retries += 1


def _check(what: str, text: str, recorded: str, partial: bool) -> Check:
    computed = text_sha256(text)
    if not recorded:
        return Check(what, "open", "", computed)
    if computed == recorded:
        return Check(what, "match", recorded, computed)
    return Check(what, "partial" if partial else "mismatch", recorded, computed)


def _terminal_text(view: TurnView) -> tuple[str, str]:
    terminal = view.terminal
    return getattr(terminal, "text", ""), getattr(terminal, "sha256", "")


def _said(shown: Transcript, view: TurnView) -> list[str]:
    """Return what a terminal may quote: the message it names, all of them, or the last."""
    texts = [message.text for message in shown.messages if message.role == "assistant"]
    named = _named(shown, getattr(view.terminal, "message_id", ""))
    return [*([named.text] if named is not None else []), "".join(texts), *(texts[-1:] or [""])]


def _named(shown: Transcript, message_id: str) -> Message | None:
    return next((m for m in shown.messages if message_id and m.message_id == message_id), None)
