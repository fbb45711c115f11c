"""Publishes records that could not be taken: as dead letters, and as results of their turns."""

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
from turnstream.schemas.errors import ProduceRefusedError
from turnstream.schemas.ids import thread_key, turn_id_of_record
from turnstream.schemas.records.results import DeadLetter
from turnstream.schemas.text import clean_text
from turnstream.schemas.topics import EVENT_BYTES_MAX
from turnstream.schemas.unexpected import note
from turnstream.streams.worker.admission import letter_of
from turnstream.streams.worker.entry.rejections import NOTHING, named_in, rejection_of

if TYPE_CHECKING:
    from turnstream.connectors.avro import Codec
    from turnstream.connectors.kafka.write.pump import Pump
    from turnstream.schemas.records.results import TurnResult
    from turnstream.streams.worker.admission import Record
    from turnstream.streams.worker.results import Results

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


class DeadLetters:
    """Publishes through the pump and waits for the acks.

    `topic` has `partitions` partitions. `wire` encodes what other systems read.
    """

    def __init__(
        self, pump: Pump, results: Results, topic: str, partitions: int, *, wire: Codec
    ) -> None:
        self._pump = pump
        self._results = results
        self._topic = topic
        self._partitions = partitions
        self._wire = wire

    async def publish(
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
        to = TopicPartition(self._topic, partition_of(letter.key, self._partitions))
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
        if rejection is None:
            return
        key = record_key
        if rejection.thread_id:
            key = thread_key(rejection.tenant, rejection.thread_id).encode()
        for _ in range(REFUSED_TRIES):
            try:
                await self._results.publish(rejection, key)
            except ProduceRefusedError as error:
                # the letter is safe; a result that its topic refuses for good must not hold others
                log.error("rejection_refused", turn=rejection.turn_id, error=str(error))  # noqa: TRY400
                await asyncio.sleep(REFUSED_PAUSE_S)
            else:
                return


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
