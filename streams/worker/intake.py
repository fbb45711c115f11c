"""Intake: from the input topics into the ledger, in batches, each command once.

Reads the input topics from the ledger's position on (A1); writes `dead-letters` and, through
`admit`, the ledger. A record that cannot be taken is in `dead-letters`, acked, before the position
passes it. The intake takes in no more than the ledger has room for and pauses while it is full, not
because this worker is busy. What it takes in at once is bounded, so that turns that run here go on.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from turnstream.connectors.kafka.read.inbox import end_of
from turnstream.connectors.postgres.ledger.rows import Admitted, Moved, Reused
from turnstream.schemas.errors import DatabaseUnavailableError
from turnstream.schemas.unexpected import note
from turnstream.streams.worker.entry.record_reader import Refused, unprocessable

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from aiokafka import TopicPartition

    from turnstream.connectors.kafka.read.inbox import Inbox
    from turnstream.connectors.postgres.ledger.ledger import Ledger
    from turnstream.connectors.postgres.ledger.rows import Admission
    from turnstream.streams.worker.admission import Record
    from turnstream.streams.worker.claims.roster import Roster
    from turnstream.streams.worker.entry.dead_letters import DeadLetters
    from turnstream.streams.worker.entry.positions import Positions
    from turnstream.streams.worker.entry.record_reader import RecordReader

log = structlog.get_logger(__name__)

POLL_S = 0.2
RETRY_S = 0.5
PARTITIONS_AT_ONCE = 4
RECORDS_AT_ONCE = 100
"""Records of one round; turns that run here go on between two rounds."""


class Intake:
    """One worker's intake. `run` is its loop.

    `passed` counts records that the position passed, admitted or refused.
    """

    def __init__(
        self,
        inbox: Inbox,
        ledger: Ledger,
        roster: Roster,
        *,
        positions: Positions,
        reader: RecordReader,
        letters: DeadLetters,
    ) -> None:
        self._inbox = inbox
        self._ledger = ledger
        self._roster = roster
        self._positions = positions
        self._reader = reader
        self._letters = letters
        self._gate = asyncio.Semaphore(PARTITIONS_AT_ONCE)
        self._stop = asyncio.Event()
        self.placed = positions.placed
        self.passed = 0
        self.admitted = 0
        self.dead_letters = 0

    def stop(self) -> None:
        """Take nothing new; `run` ends after the batch under way."""
        self._stop.set()

    def look_again(self) -> None:
        """Ask the ledger for every position anew, because the connection to it was replaced."""
        self._inbox.displace()

    async def run(self) -> None:
        """Take in what arrives until stopped.

        Raises `InputLostError` where the ledger's position is not in the log any more.
        """
        while not self._stop.is_set():
            try:
                await self._positions.look()
            except DatabaseUnavailableError as error:
                log.warning("intake_waits", error=str(error))
                self._inbox.displace()
                await asyncio.sleep(RETRY_S)
                continue
            batches = await self._inbox.batches(
                wait_s=POLL_S, records_max=max(1, min(RECORDS_AT_ONCE, self._positions.room))
            )
            if batches:
                await asyncio.gather(
                    *(self._partition(tp, records) for tp, records in batches.items())
                )
            await self._inbox.commit()
        await self._inbox.leave()  # others take commands in while turns still run here

    async def _partition(self, tp: TopicPartition, records: Sequence[Record]) -> None:
        async with self._gate:
            at = self._inbox.position(tp)
            if at is None:
                return
            try:
                await self._take(tp, at, records, frozenset())
            except DatabaseUnavailableError as error:
                # whether it was written is not known: the position tells
                log.warning("admit_unknown", topic=tp.topic, partition=tp.partition, why=str(error))
                self._inbox.displace([tp])
            except Exception as error:  # noqa: BLE001  other partitions go on
                note("intake_partition", error, topic=tp.topic, partition=tp.partition)
                self._positions.rest(tp)

    async def _take(
        self, tp: TopicPartition, at: int, records: Sequence[Record], told: frozenset[int]
    ) -> None:
        """Admit the records, which begin at position `at`, and move the position past them.

        `told`: the offsets of those that have their dead letters already.
        """
        commands, refused, decoded = await self._reader.read(records)
        while True:
            await self._refuse(one for one in refused if one.record.offset not in told)
            told |= {one.record.offset for one in refused}
            try:
                verdict = await self._admit(tp, at, end_of(records[-1]), commands)
                if isinstance(verdict, Admitted):
                    await self._roster.take(verdict, decoded)
            except DatabaseUnavailableError:
                raise
            except Exception as error:
                if not commands:  # only the position was to move: it is no record's fault
                    raise
                if len(records) > 1:
                    log.warning("admit_one_by_one", error=type(error).__name__)
                    for record in records:
                        await self._take(tp, at, [record], told)
                        at = end_of(record)
                    return
                # the ledger takes everything that the rules let pass; if it does not, one record
                # must not stop its partition
                (record,), commands = records, []
                refused = [Refused(record, *unprocessable("intake_admit", error, record))]
                continue
            if not isinstance(verdict, Reused):
                break
            refused = _reused(records, verdict)
            commands = [one for one in commands if one.src_off not in verdict.offsets]
        self._passed(tp, at, records, commands, verdict)

    def _passed(
        self,
        tp: TopicPartition,
        at: int,
        records: Sequence[Record],
        commands: Sequence[Admission],
        verdict: Admitted | Moved,
    ) -> None:
        if isinstance(verdict, Moved):
            log.info("intake_moved", topic=tp.topic, partition=tp.partition, at=at)
            self._inbox.displace([tp])
            return
        self._inbox.moved(tp, end_of(records[-1]))
        self.passed += len(records)
        self.admitted += len(commands)
        self._positions.admitted(len(commands))

    async def _admit(
        self, tp: TopicPartition, at: int, next_off: int, commands: list[Admission]
    ) -> Admitted | Moved | Reused:
        slots = self._roster.slots
        room = slots.reserve(len(commands))
        try:
            return await self._ledger.admit(
                tp.topic,
                tp.partition,
                at,
                next_off,
                commands,
                worker=self._roster.worker,
                room=room,
            )
        except DatabaseUnavailableError:
            slots.doubt()
            raise
        finally:
            slots.unreserve(room)

    async def _refuse(self, refused: Iterable[Refused]) -> None:
        """Publish dead letters; `dead_letters` counts those that are acked."""
        await asyncio.gather(*map(self._refuse_one, refused))

    async def _refuse_one(self, refused: Refused) -> None:
        record, code, message = refused
        tenant = self._reader.tenant_of(record.topic) or ""
        topic_id = self._reader.topic_ids[record.topic]
        try:
            await self._letters.publish(record, tenant, code, message, topic_id)
        except Exception as error:  # noqa: BLE001  its text may be what cannot be written
            code, message = unprocessable("dead_letter", error, record)
            await self._letters.publish(record, tenant, code, message, topic_id)
        self.dead_letters += 1


def _reused(records: Sequence[Record], verdict: Reused) -> list[Refused]:
    by_offset = {record.offset: record for record in records}
    why = "another command came under this turn id"
    return [
        Refused(by_offset[offset], "turn_id_reused", why) for offset in sorted(set(verdict.offsets))
    ]
