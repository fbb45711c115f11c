"""Intake: from the input topics into the ledger, in batches, each command once.

Reads the input topics from the ledger's position on; writes `dead-letters` and, through `admit`,
the ledger. A record that cannot be taken is in `dead-letters`, acked, before the position passes
it. The intake pauses while the ledger holds too many open turns, not because this worker is busy.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

import structlog

from turnstream.connectors.postgres.rows import Moved, Reused
from turnstream.schemas.errors import (
    DatabaseUnavailableError,
    InvalidRequestError,
    TurnstreamError,
    UnavailableError,
    UndecodableError,
    UnknownSchemaError,
)
from turnstream.streams.admission import admission_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from uuid import UUID

    from aiokafka import TopicPartition

    from turnstream.connectors.kafka.inbox import Inbox
    from turnstream.connectors.postgres.ledger import Ledger
    from turnstream.connectors.postgres.rows import Admission, Admitted
    from turnstream.streams.admission import Record, Rules
    from turnstream.streams.outlets import Outlets

log = structlog.get_logger(__name__)

POLL_S = 0.2
RETRY_S = 0.2
CHECK_EVERY_S = 1.0
PARTITIONS_AT_ONCE = 4
LEARN_EVERY_S = 5.0


class Roster(Protocol):
    """Who runs what was claimed, as the intake sees it."""

    worker: UUID

    def reserve(self, wanted: int) -> int:
        """Keep up to so many slots free; returns how many."""
        ...

    def unreserve(self, room: int) -> None:
        """Give reserved slots back."""
        ...

    def doubt(self) -> None:
        """Note that a claiming call may have claimed without telling."""
        ...

    async def take(self, admitted: Admitted) -> None:
        """Run the claims, publish the ends, pass the wake-ups on."""
        ...


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
        self._relearn = relearn
        self._learned_at = -LEARN_EVERY_S
        self._timeline = -1
        self._checked_at = -CHECK_EVERY_S
        self._gate = asyncio.Semaphore(PARTITIONS_AT_ONCE)
        self._stop = asyncio.Event()
        self.placed = asyncio.Event()
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
            batches = await self._inbox.batches(wait_s=POLL_S)
            if batches:
                await asyncio.gather(
                    *(self._partition(tp, records) for tp, records in batches.items())
                )
            await self._inbox.commit()
        await self._inbox.leave()  # others take commands in while turns still run here

    async def _place(self) -> None:
        waiting = list(self._inbox.unplaced())
        places = [(tp.topic, tp.partition) for tp in waiting]
        found = await asyncio.gather(*(self._ledger.position(*place) for place in places))
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
        full = await self._ledger.open_total() >= self._open_turns_max
        if full != self._inbox.paused:
            log.warning("intake_paused" if full else "intake_resumed")
            self._inbox.paused = full

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

    async def _take(self, tp: TopicPartition, at: int, records: Sequence[Record]) -> None:
        """Admit the records, which begin at position `at`, and move the position past them."""
        tenant = self._tenant_of(tp.topic)
        by_offset = {record.offset: record for record in records}
        commands, refused = self._read(records, tenant)
        if any(code == UnknownSchemaError.code for _, code, _ in refused):
            # a newer writer may have registered its schema after this worker's start
            await self._learn_schemas()
            commands, refused = self._read(records, tenant)
        while True:
            await self._refuse(tenant, refused)
            refused = []
            try:
                verdict = await self._admit(tp, at, records[-1].offset + 1, commands)
            except DatabaseUnavailableError:
                raise
            except TurnstreamError as error:
                if len(records) == 1:
                    # the ledger takes everything that the rules let pass; if it does not, one
                    # record must not stop its partition
                    refused = [(records[0], "unprocessable", str(error))]
                    commands = []
                    continue
                log.warning("admit_one_by_one", error=str(error))
                for record in records:
                    await self._take(tp, at, [record])
                    at = record.offset + 1
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
            self._inbox.moved(tp, records[-1].offset + 1)
            self.admitted += len(commands)
            return

    def _read(
        self, records: Sequence[Record], tenant: str | None
    ) -> tuple[list[Admission], list[tuple[Record, str, str]]]:
        commands: list[Admission] = []
        refused: list[tuple[Record, str, str]] = []
        for record in records:
            try:
                topic_id = self._topic_ids[record.topic]
                commands.append(admission_of(record, tenant, topic_id, self._rules))
            except (UndecodableError, InvalidRequestError) as error:
                refused.append((record, error.code, str(error)))
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

    async def _admit(
        self, tp: TopicPartition, at: int, next_off: int, commands: list[Admission]
    ) -> Admitted | Moved | Reused:
        room = self._roster.reserve(len(commands))
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
            self._roster.doubt()
            raise
        finally:
            self._roster.unreserve(room)
        if not isinstance(verdict, (Moved, Reused)):
            await self._roster.take(verdict)
        return verdict

    async def _refuse(self, tenant: str | None, refused: list[tuple[Record, str, str]]) -> None:
        self.dead_letters += len(refused)
        await asyncio.gather(
            *(
                self._outlets.dead_letter(
                    record, tenant or "", code, message, self._topic_ids[record.topic]
                )
                for record, code, message in refused
            )
        )
