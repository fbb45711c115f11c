"""Where a worker publishes what is not part of a running attempt: results, ends, dead letters."""

from __future__ import annotations

import asyncio
import hashlib
import time
from typing import TYPE_CHECKING

import msgspec
import structlog
from aiokafka import TopicPartition

from turnstream.connectors.kafka.read.inbox import UnreadableRecord
from turnstream.connectors.kafka.read.scan import partition_of
from turnstream.connectors.kafka.write.outgoing import RECORD_OVERHEAD
from turnstream.connectors.postgres.ledger.rows import Closed, Resolved
from turnstream.schemas.errors import ProduceRefusedError, TurnstreamError
from turnstream.schemas.ids import thread_key, turn_id_of_record
from turnstream.schemas.records.commands import Command, StartTurn
from turnstream.schemas.records.result_json import json_of_result
from turnstream.schemas.records.results import DeadLetter
from turnstream.schemas.text import clean_text
from turnstream.schemas.topics import EVENT_BYTES_MAX
from turnstream.schemas.unexpected import note
from turnstream.streams.worker.admission import LETTER_HEADER, REQUEUES_HEADER, letter_of
from turnstream.streams.worker.outcomes import ended_of, resolved_of, result_of
from turnstream.streams.worker.rejections import NOTHING, named_in, rejection_of

if TYPE_CHECKING:
    from collections.abc import Container, Mapping, Sequence
    from uuid import UUID

    from turnstream.connectors.avro import Codec
    from turnstream.connectors.kafka.write.pump import Pump
    from turnstream.connectors.postgres.ledger.ledger import Ledger
    from turnstream.connectors.postgres.ledger.rows import Claim, Ended, ExpiredInterrupt
    from turnstream.connectors.postgres.stores.letters import Due, Letters
    from turnstream.schemas.records.results import Outcome, TurnResult
    from turnstream.schemas.topics import Topics
    from turnstream.streams.worker.admission import Record

log = structlog.get_logger(__name__)

LETTER_VALUE_BYTES_MAX = EVENT_BYTES_MAX - (64 << 10)


UNREADABLE_RESULTS_MAX = 500
"""Results of one batch that cannot be read: one for each offset, up to so many."""

MESSAGE_CHARS_MAX = 2000
KEY_BYTES_MAX = 16 << 10
"""Of a record's key in its letter, and of a key by which letters and results are written."""

CUT_PREFIX = "the letter holds the first"

REFUSED_PAUSE_S = 1.0
REFUSED_TRIES = 3


class Outlets:
    """Publishes through the pump and waits for the acks.

    `wire` encodes what other systems read, `store` what the ledger keeps. `partitions`: of each
    topic that exists, by name. `json_results`: tenants whose results are written as JSON.
    """

    def __init__(
        self,
        pump: Pump,
        topics: Topics,
        partitions: Mapping[str, int],
        *,
        wire: Codec,
        store: Codec,
        json_results: Container[str] = (),
    ) -> None:
        self._pump = pump
        self._topics = topics
        self._partitions = partitions
        self._wire = wire
        self._store = store
        self._json_results = json_results

    def command_of(self, body: bytes) -> Command:
        """Return the command that the ledger keeps as a turn's body."""
        command = self._store.decode(body)
        if not isinstance(command, Command):
            raise TurnstreamError(f"a turn's body holds {type(command).__name__}")
        return command

    async def result(self, turn: Claim | Ended, command: Command, outcome: Outcome) -> None:
        """Publish a turn's result, if its tenant has a topic for results.

        One that the topic refuses goes again without its text, which is in the log.
        """
        topic = self._topics.results_of(turn.tenant)
        if topic not in self._partitions:
            return
        record = result_of(turn, command, outcome)
        key = turn.thread_key.encode()
        encode = json_of_result if turn.tenant in self._json_results else self._wire.encode
        value = encode(record)
        to = self._to(topic, key)
        if len(value) + len(key) + RECORD_OVERHEAD > EVENT_BYTES_MAX:
            value = encode(msgspec.structs.replace(record, text=""))
        await self._pump.deliver(to, key, value, headers=[("type", b"TurnResult")])

    async def ended(self, turns: Sequence[Ended], ledger: Ledger) -> None:
        """Publish turns that ended unclaimed, with their results, and close them (A5).

        One that cannot be published is left to the next sweep.
        """
        for timeline in {turn.timeline for turn in turns}:
            mine = [turn for turn in turns if turn.timeline == timeline]
            closed = await asyncio.gather(*map(self._end_one, mine))
            await ledger.close_ended([one for one in closed if one is not None], timeline)

    async def _end_one(self, turn: Ended) -> Closed | None:
        try:
            offset = await self._end(turn)
        except TurnstreamError as error:
            log.warning("ended_left_to_sweep", turn=str(turn.turn_id), error=str(error))
        except Exception as error:  # noqa: BLE001  one turn must not keep the others from their end
            note("unclaimed_end", error, turn=str(turn.turn_id))
        else:
            return Closed(turn.thread_key, turn.turn_id, offset if offset >= 0 else None)
        return None

    async def expired(self, interrupts: Sequence[ExpiredInterrupt], ledger: Ledger) -> None:
        """Tell readers of interrupts that nobody answered in time; then the ledger that we did."""
        told = await asyncio.gather(*map(self._tell_expired, interrupts))
        await ledger.interrupts_told([one for one in told if one is not None])

    async def _tell_expired(self, one: ExpiredInterrupt) -> ExpiredInterrupt | None:
        closed = Resolved(one.interrupt_id, one.rev, "expired")
        try:
            await self.resolved(one.thread_key, one.partition, one.turn_id, closed)
        except TurnstreamError as error:
            log.warning("expired_left_to_sweep", interrupt=one.interrupt_id, error=str(error))
        except Exception as error:  # noqa: BLE001  one question must not keep the others open
            note("expired_interrupt", error, interrupt=one.interrupt_id)
        else:
            return one
        return None

    async def resolved(
        self, thread_key: str, partition: int, turn_id: UUID, closed: Resolved
    ) -> None:
        """Tell readers of an interrupt that is not open any more."""
        record = resolved_of(thread_key, turn_id, *closed)
        await self._pump.deliver(
            TopicPartition(self._topics.events, partition),
            thread_key.encode(),
            self._wire.encode(record),
            headers=[("type", b"InputResolved")],
        )
        log.info(
            "interrupt_closed",
            thread=thread_key,
            interrupt=closed.interrupt_id,
            actor=closed.actor,
        )

    async def _end(self, turn: Ended) -> int:
        try:
            command = self.command_of(turn.body)
        except Exception as error:  # noqa: BLE001  its end can be told without it
            note("unclaimed_body", error, turn=str(turn.turn_id))
            command = StartTurn(thread_id=turn.thread_id, tenant=turn.tenant)
        record = ended_of(turn, command.actor, command.traceparent, time.time_ns() // 1000)
        key = turn.thread_key.encode()
        offset, _ = await asyncio.gather(
            self._pump.deliver(
                TopicPartition(self._topics.events, turn.partition),
                key,
                self._wire.encode(record),
                headers=[("type", b"TurnEnded")],
            ),
            self.result(turn, command, turn.outcome),
        )
        log.info(
            "turn_ended_unclaimed",
            tenant=turn.tenant,
            thread=turn.thread_id,
            turn=str(turn.turn_id),
            status=turn.outcome.status,
            code=turn.outcome.code,
        )
        return offset

    async def dead_letter(
        self, record: Record, tenant: str, code: str, message: str, topic_id: str
    ) -> None:
        """Publish a record that could not be taken, with its raw bytes, and its turn's result."""
        letter = _letter(record, tenant, code, message, topic_id)
        log.warning(
            "dead_letter",
            code=code,
            reason=message[:500],
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            tenant=tenant,
        )
        # at once, because both are acked before the position passes the record
        await asyncio.gather(self._put(letter, record), self._reject(letter, record, topic_id))

    async def _put(self, letter: DeadLetter, record: Record) -> None:
        to = self._to(self._topics.dead_letters, letter.key)
        headers = [("type", b"DeadLetter"), ("code", letter.code.encode())]
        refusals = 0
        while True:
            try:
                await self._pump.deliver(to, letter.key, self._wire.encode(letter), headers=headers)
            except ProduceRefusedError as error:
                # the position must not pass a record that is nowhere: a refusal of a neighbour in
                # the same batch is over at the next try, and a topic that allows less than it
                # should gets less of the record; anything else is for people to see
                log.error("dead_letter_refused", error=str(error))  # noqa: TRY400  no traceback
                await asyncio.sleep(REFUSED_PAUSE_S)
                refusals += 1
                if refusals >= REFUSED_TRIES and "TooLarge" in str(error):
                    letter = _cut(letter, record, len(letter.value) // 2)
            else:
                return

    async def _reject(self, letter: DeadLetter, record: Record, topic_id: str) -> None:
        try:
            await self._rejections(record, letter, topic_id)
        except Exception as error:  # noqa: BLE001  the letter tells the same
            note("rejection", error, topic=record.topic, offset=record.offset)

    async def _rejections(self, record: Record, letter: DeadLetter, topic_id: str) -> None:
        """Publish a result for the turn that the letter's record would have been.

        Of a batch that cannot be read only the places of its records are known.
        """
        timestamp_ms = getattr(record, "timestamp", 0)
        if not isinstance(record, UnreadableRecord):
            named = named_in(record.value or b"", self._wire)
            await self._rejection(rejection_of(letter, named, timestamp_ms), record.key or b"")
            return
        end = min(record.end, record.offset + UNREADABLE_RESULTS_MAX)
        ids = [
            str(turn_id_of_record(topic_id, record.partition, offset))
            for offset in range(record.offset, end)
        ]
        rejection = rejection_of(letter, NOTHING, timestamp_ms)
        if rejection is not None:
            replace = msgspec.structs.replace
            each = (
                replace(rejection, event_id=f"{turn_id}-dead-letter", turn_id=turn_id)
                for turn_id in ids
            )
            await asyncio.gather(*(self._rejection(one, b"") for one in each))

    async def _rejection(self, rejection: TurnResult | None, record_key: bytes) -> None:
        topic = "" if rejection is None else self._topics.results_of(rejection.tenant)
        if rejection is None or topic not in self._partitions:
            return
        key = record_key
        if rejection.thread_id:
            key = thread_key(rejection.tenant, rejection.thread_id).encode()
        encode = json_of_result if rejection.tenant in self._json_results else self._wire.encode
        to, value = self._to(topic, key), encode(rejection)
        for _ in range(REFUSED_TRIES):
            try:
                await self._pump.deliver(to, key, value, headers=[("type", b"TurnResult")])
            except ProduceRefusedError as error:
                # the letter is safe; a result that its topic refuses for good must not hold others
                log.error("rejection_refused", turn=rejection.turn_id, error=str(error))  # noqa: TRY400
                await asyncio.sleep(REFUSED_PAUSE_S)
            else:
                return

    async def requeue(self, letters: Letters, limit: int) -> int:
        """Send what people decided to requeue, on the input topics that exist here; how many.

        A crash before the note, or a note that is lost, sends it again: it says which letter it is,
        so that it is one turn all the same (`admission.letter_of`).
        """
        due = await letters.due(list(self._partitions), limit)
        await asyncio.gather(*(self._requeue(one, letters) for one in due))
        return len(due)

    async def _requeue(self, due: Due, letters: Letters) -> None:
        topic, letter, requeues = due.key
        to = TopicPartition(topic, min(due.partition, self._partitions[topic] - 1))
        headers = [
            (LETTER_HEADER, str(letter).encode()),
            (REQUEUES_HEADER, str(requeues + 1).encode()),
        ]
        try:
            offset = await self._pump.deliver(to, due.record_key, due.value, headers=headers)
            await letters.sent(due.key, to.partition, offset)
        except TurnstreamError as error:
            log.warning("requeue_later", letter=str(letter), topic=topic, error=str(error))
        except Exception as error:  # noqa: BLE001  one letter must not keep the others waiting
            note("requeue", error, letter=str(letter), topic=topic)
        else:
            log.info("letter_requeued", letter=str(letter), topic=topic, partition=to.partition)

    def _to(self, topic: str, key: bytes) -> TopicPartition:
        return TopicPartition(topic, partition_of(key, self._partitions[topic]))


def is_cut(letter: DeadLetter) -> bool:
    """Tell whether a letter holds only the beginning of its record's value or key."""
    return len(letter.value) >= LETTER_VALUE_BYTES_MAX or CUT_PREFIX in letter.message


def _letter(record: Record, tenant: str, code: str, message: str, topic_id: str) -> DeadLetter:
    try:
        letter_id, requeues = letter_of(record, topic_id)
    except Exception as error:  # noqa: BLE001  a letter is for what cannot be read, headers too
        note("letter_of", error, topic=record.topic, offset=record.offset)
        letter_id = turn_id_of_record(topic_id, record.partition, record.offset)
        requeues = 0
    letter = DeadLetter(
        code=code,
        message=clean_text(message)[:MESSAGE_CHARS_MAX],
        tenant=tenant,
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        at=time.time_ns() // 1000,
        letter_id=str(letter_id),
        requeues=requeues,
    )
    return _cut(letter, record, LETTER_VALUE_BYTES_MAX)


def _cut(letter: DeadLetter, record: Record, value_bytes_max: int) -> DeadLetter:
    """Return the letter with the record's bytes, or with their beginning, digest and length."""
    value, key = record.value or b"", record.key or b""
    message = letter.message.partition(f"; {CUT_PREFIX}")[0]
    for name, data, kept in (("value", value, value_bytes_max), ("key", key, KEY_BYTES_MAX)):
        if len(data) > kept:
            digest = hashlib.sha256(data).hexdigest()
            message += f"; {CUT_PREFIX} {kept} bytes of its {name}: {len(data)}, sha256 {digest}"
    return msgspec.structs.replace(
        letter, message=message, key=key[:KEY_BYTES_MAX], value=value[:value_bytes_max]
    )
