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

from turnstream.connectors.kafka.read.inbox import UnreadableRecord, end_of
from turnstream.connectors.postgres.ledger.rows import Moved, Reused
from turnstream.schemas.errors import (
    DatabaseUnavailableError,
    InvalidRequestError,
    TurnstreamError,
    UnavailableError,
    UndecodableError,
    UnknownSchemaError,
)
from turnstream.schemas.unexpected import note
from turnstream.streams.worker.admission import admission_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from aiokafka import TopicPartition

    from turnstream.connectors.kafka.read.inbox import Inbox
    from turnstream.connectors.postgres.ledger.ledger import Ledger
    from turnstream.connectors.postgres.ledger.rows import Admission, Admitted
    from turnstream.streams.worker.admission import Record, Rules
    from turnstream.streams.worker.claims.roster import Roster
    from turnstream.streams.worker.outlets import Outlets

log = structlog.get_logger(__name__)

POLL_S = 0.2
RETRY_S = 0.5
CHECK_EVERY_S = 1.0
PARTITIONS_AT_ONCE = 4
RECORDS_AT_ONCE = 100
"""Records of one round; turns that run here go on between two rounds."""
LEARN_EVERY_S = 5.0
HOLD_S = 10.0
"""A partition rests for so long after an error that is no record's fault."""


class Intake:
    """One worker's intake. `run` is its loop.

    `tenant_of` gives an input topic's tenant, None where the body names it; `topic_ids` the ids
    from which turn ids of records without one are made. `open_turns_max`: of the whole ledger.
    `relearn` asks the schema registry, if there is one, for schemas that are new.
    """

    def __init__(
        self,
        inbox: Inbox,
        ledger: Ledger,
        outlets: Outlets,
        roster: Roster,
        *,
        rules: Rules,
        tenant_of: Callable[[str], str | None],
        topic_ids: dict[str, str],
        open_turns_max: int,
        relearn: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._inbox = inbox
        self._ledger = ledger
        self._outlets = outlets
        self._roster = roster
        self._rules = rules
        self._tenant_of = tenant_of
        self._topic_ids = topic_ids
        self._open_turns_max = open_turns_max
        self._room = open_turns_max
        self._held_back = False
        self._relearn = relearn
        self._learned_at = -LEARN_EVERY_S
        self._timeline = -1
        self._checked_at = -CHECK_EVERY_S
        self._gate = asyncio.Semaphore(PARTITIONS_AT_ONCE)
        self._held: dict[TopicPartition, float] = {}
        self._stop = asyncio.Event()
        self.placed = asyncio.Event()
        self.passed = 0
        """Records that the position passed: those admitted and those refused."""
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
                await self._place()
                await self._check()
            except DatabaseUnavailableError as error:
                log.warning("intake_waits", error=str(error))
                self._inbox.displace()
                await asyncio.sleep(RETRY_S)
                continue
            batches = await self._inbox.batches(
                wait_s=POLL_S, records_max=max(1, min(RECORDS_AT_ONCE, self._room))
            )
            if batches:
                await asyncio.gather(
                    *(self._partition(tp, records) for tp, records in batches.items())
                )
            await self._inbox.commit()
        await self._inbox.leave()  # others take commands in while turns still run here

    async def _place(self) -> None:
        now = asyncio.get_running_loop().time()
        self._held = {tp: until for tp, until in self._held.items() if until > now}
        waiting = list(self._inbox.unplaced() - self._held.keys())
        places = [(tp.topic, tp.partition) for tp in waiting]
        # the first alone: while Postgres is away, each position would try a connection of its own
        found = [await self._ledger.position(*place) for place in places[:1]]
        found += await asyncio.gather(*(self._ledger.position(*place) for place in places[1:]))
        known = dict(zip(waiting, found, strict=True))
        fresh = [tp for tp, position in known.items() if position is None]
        for tp, start in (await self._inbox.starts_of(fresh)).items():
            known[tp] = await self._ledger.open_position(tp.topic, tp.partition, start)
        for tp, position in known.items():
            if position is not None:
                self._inbox.place(tp, position)
        if self._inbox.assigned():
            self.placed.set()

    async def _check(self) -> None:
        """See, once a second, whether the ledger is full and whether it is still the same."""
        now = asyncio.get_running_loop().time()
        if now - self._checked_at < CHECK_EVERY_S:
            return
        self._checked_at = now
        timeline = await self._ledger.timeline()
        if timeline != self._timeline and self._timeline >= 0:
            log.warning("ledger_timeline_changed", before=self._timeline, now=timeline)
            self._inbox.displace()
        self._timeline = timeline
        self._room = self._open_turns_max - await self._ledger.open_total()
        held_back = self._inbox.paused or self._room <= 0
        if held_back != self._held_back:
            log.warning("intake_paused" if held_back else "intake_resumed")
            self._held_back = held_back
        self._inbox.paused = self._room <= 0

    async def _partition(self, tp: TopicPartition, records: Sequence[Record]) -> None:
        async with self._gate:
            at = self._inbox.position(tp)
            if at is None:
                return
            try:
                await self._take(tp, at, records)
            except DatabaseUnavailableError as error:
                # whether it was written is not known: the position tells
                log.warning("admit_unknown", topic=tp.topic, partition=tp.partition, why=str(error))
                self._inbox.displace([tp])
            except Exception as error:  # noqa: BLE001  other partitions go on
                note("intake_partition", error, topic=tp.topic, partition=tp.partition)
                self._inbox.displace([tp])
                self._held[tp] = asyncio.get_running_loop().time() + HOLD_S

    async def _take(
        self,
        tp: TopicPartition,
        at: int,
        records: Sequence[Record],
        told: frozenset[int] = frozenset(),
    ) -> None:
        """Admit the records, which begin at position `at`, and move the position past them.

        `told`: the offsets of those that have their dead letters already.
        """
        tenant = self._tenant_of(tp.topic)
        by_offset = {record.offset: record for record in records}
        commands, refused = self._read(records, tenant)
        if any(code == UnknownSchemaError.code for _, code, _ in refused):
            # a newer writer may have registered its schema after this worker's start
            await self._learn_schemas()
            commands, refused = self._read(records, tenant)
        while True:
            await self._refuse(tenant, [one for one in refused if one[0].offset not in told])
            told |= {record.offset for record, _, _ in refused}
            refused = []
            try:
                verdict = await self._admit(tp, at, end_of(records[-1]), commands)
            except DatabaseUnavailableError:
                raise
            except Exception as error:
                if not commands:  # only the position was to move: it is no record's fault
                    raise
                if len(records) == 1:
                    # the ledger takes everything that the rules let pass; if it does not, one
                    # record must not stop its partition
                    refused = [(records[0], "unprocessable", _why("intake_admit", error, records))]
                    commands = []
                    continue
                log.warning("admit_one_by_one", error=type(error).__name__)
                for record in records:
                    await self._take(tp, at, [record], told)
                    at = end_of(record)
                return
            if isinstance(verdict, Reused):
                again = frozenset(verdict.offsets)
                refused = [
                    (by_offset[o], "turn_id_reused", "another command came under this turn id")
                    for o in sorted(again)
                ]
                commands = [command for command in commands if command.src_off not in again]
                continue
            if isinstance(verdict, Moved):
                log.info("intake_moved", topic=tp.topic, partition=tp.partition, at=at)
                self._inbox.displace([tp])
                return
            self._inbox.moved(tp, end_of(records[-1]))
            self.passed += len(records)
            self.admitted += len(commands)
            self._room -= len(commands)
            self._inbox.paused = self._room <= 0  # until the next check
            return

    def _read(
        self, records: Sequence[Record], tenant: str | None
    ) -> tuple[list[Admission], list[tuple[Record, str, str]]]:
        commands: list[Admission] = []
        refused: list[tuple[Record, str, str]] = []
        for record in records:
            if isinstance(record, UnreadableRecord):
                refused.append((record, record.code, record.message))
                continue
            try:
                topic_id = self._topic_ids[record.topic]
                commands.append(admission_of(record, tenant, topic_id, self._rules))
            except (UndecodableError, InvalidRequestError) as error:
                refused.append((record, error.code, str(error)))
            except Exception as error:  # noqa: BLE001  one record must not stop the others
                why = _why("intake_read", error, [record])
                refused.append((record, "unprocessable", why))
        return commands, refused

    async def _learn_schemas(self) -> None:
        now = asyncio.get_running_loop().time()
        if self._relearn is None or now - self._learned_at < LEARN_EVERY_S:
            return
        self._learned_at = now
        try:
            await self._relearn()
        except UnavailableError as error:
            log.warning("schemas_not_learned", error=str(error))
        except Exception as error:  # noqa: BLE001  a registry may answer anything
            note("schemas_learn", error)

    async def _admit(
        self, tp: TopicPartition, at: int, next_off: int, commands: list[Admission]
    ) -> Admitted | Moved | Reused:
        room = self._roster.slots.reserve(len(commands))
        try:
            verdict = await self._ledger.admit(
                tp.topic,
                tp.partition,
                at,
                next_off,
                commands,
                worker=self._roster.worker,
                room=room,
            )
        except DatabaseUnavailableError:
            self._roster.slots.doubt()
            raise
        finally:
            self._roster.slots.unreserve(room)
        if not isinstance(verdict, (Moved, Reused)):
            await self._roster.take(verdict)
        return verdict

    async def _refuse(self, tenant: str | None, refused: list[tuple[Record, str, str]]) -> None:
        """Publish dead letters; `dead_letters` counts those that are acked."""
        await asyncio.gather(*(self._refuse_one(tenant or "", *one) for one in refused))

    async def _refuse_one(self, tenant: str, record: Record, code: str, message: str) -> None:
        topic_id = self._topic_ids[record.topic]
        try:
            await self._outlets.dead_letter(record, tenant, code, message, topic_id)
        except Exception as error:  # noqa: BLE001  its text may be what cannot be written
            why = _why("dead_letter", error, [record])
            await self._outlets.dead_letter(record, tenant, "unprocessable", why, topic_id)
        self.dead_letters += 1


def _why(place: str, error: Exception, records: Sequence[Record]) -> str:
    """Note an error that no rule foresaw; returns what the dead letter says of it.

    The ledger's and the rules' own errors are told in full, all others by class and id.
    """
    first = records[0]
    error_id = note(place, error, topic=first.topic, partition=first.partition, offset=first.offset)
    told = str(error) if isinstance(error, TurnstreamError) else type(error).__name__
    return f"{told} (error {error_id})"
