"""Publishes what no running attempt emits: results, unclaimed ends, interrupts that closed."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import structlog
from aiokafka import TopicPartition

from turnstream.connectors.postgres.ledger.rows import Closed, Resolved
from turnstream.schemas.errors import TurnstreamError
from turnstream.schemas.records.commands import Command, StartTurn
from turnstream.schemas.unexpected import note
from turnstream.streams.worker.outcomes import ended_of, resolved_of, result_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from turnstream.connectors.avro import Codec
    from turnstream.connectors.kafka.write.pump import Pump
    from turnstream.connectors.postgres.ledger.ledger import Ledger
    from turnstream.connectors.postgres.ledger.rows import Claim, Ended, ExpiredInterrupt
    from turnstream.schemas.records.results import Outcome
    from turnstream.streams.worker.results import Results

log = structlog.get_logger(__name__)


class Outlets:
    """Publishes through the pump and waits for the acks.

    `events` is the topic of events. `wire` encodes what other systems read, `store` what the ledger
    keeps.
    """

    def __init__(
        self, pump: Pump, results: Results, events: str, *, wire: Codec, store: Codec
    ) -> None:
        self._pump = pump
        self._results = results
        self._events = events
        self._wire = wire
        self._store = store

    def command_of(self, body: bytes) -> Command:
        """Return the command that the ledger keeps as a turn's body."""
        command = self._store.decode(body)
        if not isinstance(command, Command):
            raise TurnstreamError(f"a turn's body holds {type(command).__name__}")
        return command

    async def result(self, turn: Claim | Ended, command: Command, outcome: Outcome) -> None:
        """Publish a turn's result, if its tenant has a topic for results."""
        await self._results.publish(result_of(turn, command, outcome), turn.thread_key.encode())

    async def ended(self, turns: Sequence[Ended], ledger: Ledger) -> None:
        """Publish turns that ended unclaimed, with their results, and close them (A5).

        A turn that cannot be published is left to the next sweep.
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
        """Publish interrupts that expired unanswered, and note that in the ledger."""
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
        """Publish that an interrupt is no longer open."""
        record = resolved_of(thread_key, turn_id, *closed)
        await self._pump.deliver(
            TopicPartition(self._events, partition),
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
                TopicPartition(self._events, turn.partition),
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
