"""What a dead letter is, where it lies, and a bounded reading of their topic, page by page."""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING
from uuid import UUID

from turnstream.connectors.postgres.stores.letters import Decision, LetterKey
from turnstream.schemas.errors import InvalidRequestError, NotFoundError
from turnstream.schemas.limits import MICROS_MAX

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from turnstream.connectors.kafka.read.scan import RawRecord, Span
    from turnstream.schemas.records.results import DeadLetter
    from turnstream.streams.replay.log import Log, OnProgress


_INT4_MAX = (1 << 31) - 1
_INT8_MAX = (1 << 63) - 1


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """Where a letter lies in its topic; written `partition-offset`."""

    partition: int
    offset: int

    def __str__(self) -> str:
        """Return how people write it."""
        return f"{self.partition}-{self.offset}"


def parse_place(text: str) -> Place:
    """Return the place; raises `InvalidRequestError` (`invalid_letter`)."""
    partition, bar, offset = text.partition("-")
    if not (bar and partition.isdecimal() and offset.isdecimal() and len(text) <= 40):  # noqa: PLR2004
        raise InvalidRequestError(
            f"{text[:60]!r} is no letter: partition-offset, as in 3-17",
            code="invalid_letter",
            field="letter",
        )
    place = Place(int(partition), int(offset))
    if place.partition > _INT4_MAX or place.offset > _INT8_MAX:
        raise NotFoundError(f"there is no letter {place}", code="letter_not_found")
    return place


def is_letter(record: DeadLetter) -> bool:
    """Return whether a worker of ours may have written it: a topic can hold anything."""
    try:
        UUID(record.letter_id)
    except ValueError:
        return False
    texts = (record.topic, record.tenant, record.code, record.message)
    return (
        0 <= record.at <= MICROS_MAX
        and 0 <= record.requeues <= _INT4_MAX
        and 0 <= record.partition <= _INT4_MAX
        and 0 <= record.offset <= _INT8_MAX
        and not any("\x00" in text for text in texts)  # Postgres holds none
    )


@dataclass(frozen=True, slots=True)
class Letter:
    """A letter at its place, and what was decided of it."""

    place: Place
    record: DeadLetter
    decision: Decision | None = None

    @property
    def key(self) -> LetterKey:
        """Return what a decision about it is kept under."""
        return LetterKey(self.record.topic, UUID(self.record.letter_id), self.record.requeues)

    @property
    def state(self) -> str:
        """Return `open`, `dropped`, `requeued`, or `requeue_due` until a worker has sent it."""
        if self.decision is None:
            return "open"
        if self.decision.what == "drop":
            return "dropped"
        return "requeued" if self.decision.sent_at is not None else "requeue_due"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which letters; an empty field wants all. `first` and `end` are offsets, `end` is left out."""

    tenant: str | None = None
    code: str = ""
    topic: str = ""
    state: str = ""
    partition: int | None = None
    first: int = 0
    end: int | None = None

    def takes(self, record: DeadLetter) -> bool:
        """Return whether a letter is wanted, as far as its own fields tell."""
        return (
            (self.tenant is None or record.tenant == self.tenant)
            and self.code in ("", record.code)
            and self.topic in ("", record.topic)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LetterPage:
    """Letters in order of their places. `following`: where to go on, None at the end.

    `cut`: the time was over before the page was full. `unreadable`: records that are no letters.
    """

    letters: Sequence[Letter]
    following: Place | None
    cut: bool = False
    unreadable: int = 0


class LetterScan:
    """One reading of the topic, a partition after the other.

    `letter_in` decodes a record, None for one that is no letter; `decided` adds what was decided.
    """

    def __init__(
        self,
        wanted: Wanted,
        start: Place | None,
        limit: int,
        *,
        letter_in: Callable[[RawRecord], DeadLetter | None],
        decided: Callable[[Sequence[Letter]], Awaitable[list[Letter]]],
        on_progress: OnProgress,
    ) -> None:
        self._wanted, self._start, self._limit = wanted, start, limit
        self._letter_in, self._decided = letter_in, decided
        self._on_progress = on_progress
        self._found: list[Letter] = []
        self._at: Place | None = start or Place(0, 0)
        self._unreadable = 0

    def page(self, *, cut: bool = False) -> LetterPage:
        """Return what was found; `cut`: the time was over."""
        return LetterPage(
            letters=self._found, following=self._at, cut=cut, unreadable=self._unreadable
        )

    async def run(self, log: Log, topic: str) -> None:
        """Read until the page is full or everything is read."""
        spans = list(self._spans(await log.spans(topic)))
        done, total = 0, sum(span.end - span.first for span in spans)
        for span in spans:
            async with aclosing(log.read(topic, [span])) as batches:
                async for batch in batches:
                    if await self._take(batch):
                        return
                    done += len(batch)
                    self._on_progress(done, total)
        self._at = None

    def _spans(self, spans: Iterable[Span]) -> Iterable[Span]:
        wanted, start = self._wanted, self._start or Place(0, 0)
        for span in spans:
            if span.partition < start.partition:
                continue
            if wanted.partition is not None and span.partition != wanted.partition:
                continue
            first = max(span.first, wanted.first)
            if span.partition == start.partition:
                first = max(first, start.offset)
            end = span.end if wanted.end is None else min(span.end, wanted.end)
            if first < end:
                yield replace(span, first=first, end=end)

    async def _take(self, batch: Sequence[RawRecord]) -> bool:
        """Add the wanted letters of a batch; return whether the page is full."""
        letters = []
        for raw in batch:
            record = self._letter_in(raw)
            if record is None:
                self._unreadable += 1
            elif self._wanted.takes(record):
                letters.append(Letter(Place(raw.partition, raw.offset), record))
        for letter in await self._decided(letters):
            if self._wanted.state in ("", letter.state):
                self._found.append(letter)
                if len(self._found) >= self._limit:
                    self._at = Place(letter.place.partition, letter.place.offset + 1)
                    return True
        if batch:
            self._at = Place(batch[-1].partition, batch[-1].offset + 1)
        return False
