"""Dead letters: find them, read them, and decide: requeue, with an edit or without, or drop.

Reads the dead-letters topic; a decision goes to Postgres and nowhere else. Workers carry requeues
out (`Requeues`), so that a process may die right after its decision, and two decisions at
once count as one.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

from turnstream.connectors.postgres.stores.letters import Decision
from turnstream.schemas.errors import (
    ConflictError,
    InvalidRequestError,
    KafkaUnavailableError,
    NotFoundError,
    RecordTooLargeError,
    UndecodableError,
)
from turnstream.schemas.limits import check_label
from turnstream.schemas.records.results import DeadLetter
from turnstream.schemas.topics import COMMAND_BYTES_MAX
from turnstream.streams.letters.looks import Looks
from turnstream.streams.letters.reading import Reading, read_letter
from turnstream.streams.letters.scan import (
    Letter,
    LetterPage,
    LetterScan,
    Place,
    Wanted,
    is_letter,
)
from turnstream.streams.replay.log import no_progress
from turnstream.streams.worker.entry.dead_letters import is_cut

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Sequence

    from turnstream.connectors.kafka.read.scan import RawRecord
    from turnstream.connectors.postgres.stores.letters import Letters
    from turnstream.streams.letters.looks import OpenLog
    from turnstream.streams.replay.log import OnProgress
    from turnstream.streams.worker.admission import Rules

PAGE_MAX = 500
BUDGET_S = 20.0
"""Of one look into the topic, when nothing else is asked for; a scan that is cut goes on later."""

HOPELESS = frozenset(
    {
        "too_deep",
        "number_out_of_range",
        "invalid_at",
        "invalid_expires_at",
        "invalid_priority",
        "unprocessable",
    }
)
"""Codes of records that are never sent again: they are beyond what Postgres or a parser can do."""

SENT_POLL_S = 0.1
_RECORD_ROOM = 1024  # what a record has beside its value and key, headers included


class DeadLetters:
    """The dead-letters topic and the decisions.

    `open_log` opens a reader of Kafka; `rules` judge a record as an intake would, with `tenant_of`
    its topic's tenant. `inputs`: the topics that letters can go back to.
    """

    def __init__(
        self,
        open_log: OpenLog,
        topic: str,
        letters: Letters,
        rules: Rules,
        *,
        tenant_of: Callable[[str], str | None],
        inputs: Container[str],
    ) -> None:
        self._looks = Looks(open_log)
        self._topic = topic
        self._letters = letters
        self._rules = rules
        self._tenant_of = tenant_of
        self._inputs = inputs

    # -- look ------------------------------------------------------------------------------------

    async def page(
        self,
        wanted: Wanted,
        *,
        caller: str = "",
        start: Place | None = None,
        limit: int = 50,
        budget_s: float = BUDGET_S,
        on_progress: OnProgress = no_progress,
    ) -> LetterPage:
        """Return letters from `start` on, at most `limit`; what is cut by time says where to go on.

        `caller`: the tenant that looks; its looks at the same time are bounded. Raises
        `KafkaUnavailableError`, `TooManyRequestsError`.
        """
        scan = LetterScan(
            wanted,
            start,
            limit,
            letter_in=self.letter_in,
            decided=self.decided,
            on_progress=on_progress,
        )
        try:
            async with asyncio.timeout(budget_s), self._looks.open(caller) as log:
                await scan.run(log, self._topic)
        except TimeoutError:
            return scan.page(cut=True)
        return scan.page()

    async def get(self, place: Place, *, caller: str = "", budget_s: float = BUDGET_S) -> Letter:
        """Return one letter; raises `NotFoundError` (`letter_not_found`)."""
        try:
            async with asyncio.timeout(budget_s), self._looks.open(caller) as log:
                raw = await log.record(self._topic, place.partition, place.offset)
        except TimeoutError:
            raise KafkaUnavailableError(f"no answer in {budget_s:g} s") from None
        record = self.letter_in(raw) if raw is not None else None
        if record is None:
            raise NotFoundError(f"there is no letter {place}", code="letter_not_found")
        (letter,) = await self.decided([Letter(place, record)])
        return letter

    def read(self, record: DeadLetter) -> Reading:
        """Return what the bytes are, and whether an intake would take them now."""
        return read_letter(
            record, record.key, record.value, self._rules, self._tenant_of(record.topic)
        )

    async def history(self, letter: Letter) -> list[Decision]:
        """Return what was decided of it and of what it was before, the oldest first."""
        return await self._letters.history(letter.key.topic, letter.key.letter)

    def letter_in(self, raw: RawRecord) -> DeadLetter | None:
        """Return the letter, None for a record that is none."""
        try:
            record = self._rules.wire.decode(raw.value)
        except UndecodableError:
            return None
        return record if isinstance(record, DeadLetter) and is_letter(record) else None

    async def decided(self, letters: Sequence[Letter]) -> list[Letter]:
        """Return the letters with what was decided of them."""
        known = await self._letters.of([letter.key for letter in letters])
        return [replace(letter, decision=known.get(letter.key)) for letter in letters]

    # -- decide ----------------------------------------------------------------------------------

    async def requeue(
        self,
        letter: Letter,
        *,
        actor: str,
        note: str = "",
        key: bytes | None = None,
        value: bytes | None = None,
        force: bool = False,
    ) -> Letter:
        """Decide that the record goes to its topic once more, with these bytes where there are any.

        Raises `ConflictError` (`letter_decided`) where a decision stands, and
        `InvalidRequestError` (`letter_refused`) for bytes that would be refused again; with `force`
        only for those that are refused whatever the settings and the version of the workers.
        """
        record = letter.record
        if record.topic not in self._inputs:
            raise ConflictError(
                f"{record.topic} is no input topic here", code="letter_topic_unknown"
            )
        if value is None and is_cut(record):
            raise InvalidRequestError(
                "the letter holds only the beginning of the record", code="letter_cut"
            )
        edited = key is not None or value is not None
        record_key = record.key if key is None else key
        data = record.value if value is None else value
        if len(record_key) + len(data) > COMMAND_BYTES_MAX - _RECORD_ROOM:
            raise RecordTooLargeError("the record is larger than its topic allows")
        self._check(record, record_key, data, edited=edited, force=force)
        decision = _decision(letter, "requeue", actor, note, edited=edited)
        return await self._decide(letter, decision, (record_key, data))

    async def drop(self, letter: Letter, *, actor: str, note: str = "") -> Letter:
        """Decide that the letter is not sent again; it stays for its topic's retention."""
        return await self._decide(letter, _decision(letter, "drop", actor, note), None)

    async def sent(self, letter: Letter, *, timeout_s: float) -> Letter:
        """Wait until a worker has sent a requeued letter, or the time is over; return it."""
        until = asyncio.get_running_loop().time() + timeout_s
        while True:
            (letter,) = await self.decided([letter])
            if letter.state != "requeue_due" or asyncio.get_running_loop().time() > until:
                return letter
            await asyncio.sleep(SENT_POLL_S)

    def _check(
        self, record: DeadLetter, key: bytes, value: bytes, *, edited: bool, force: bool
    ) -> None:
        code, message = record.code, record.message
        if edited or code != "turn_id_reused":  # the ledger decides that, not the record
            reading = read_letter(record, key, value, self._rules, self._tenant_of(record.topic))
            code, message = reading.code, reading.message
        if code and (not force or code in HOPELESS):
            raise InvalidRequestError(
                f"it would be refused again: {code}: {message}", code="letter_refused"
            )

    async def _decide(
        self, letter: Letter, decision: Decision, record: tuple[bytes, bytes] | None
    ) -> Letter:
        check_label("actor", decision.actor)
        first = letter.decision is None and await self._letters.decide(decision, record)
        (letter,) = await self.decided([letter])
        if not first and letter.decision is not None:
            before = letter.decision
            raise ConflictError(
                f"{before.actor} has decided at {before.decided_at}: {before.what}",
                code="letter_decided",
            )
        return letter


def _decision(
    letter: Letter, what: str, actor: str, note: str, *, edited: bool = False
) -> Decision:
    record = letter.record
    return Decision(
        key=letter.key,
        what="requeue" if what == "requeue" else "drop",
        tenant=record.tenant,
        actor=actor,
        note=note,
        code=record.code,
        message=record.message,
        place=str(letter.place),
        partition=record.partition,
        src_off=record.offset,
        edited=edited,
    )
