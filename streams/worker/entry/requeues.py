"""Requeues dead letters on their topics, as operators decided. Reads and writes Postgres."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog
from aiokafka import TopicPartition

from turnstream.schemas.errors import TurnstreamError
from turnstream.schemas.unexpected import note
from turnstream.streams.worker.admission import LETTER_HEADER, REQUEUES_HEADER

if TYPE_CHECKING:
    from collections.abc import Mapping

    from turnstream.connectors.kafka.write.pump import Pump
    from turnstream.connectors.postgres.stores.letters import Due, Letters

log = structlog.get_logger(__name__)

AT_ONCE_MAX = 50
"""Letters of one look."""


class Requeues:
    """Carries decisions out. `partitions`: of each topic that exists, by name."""

    def __init__(self, pump: Pump, letters: Letters, partitions: Mapping[str, int]) -> None:
        self._pump = pump
        self._letters = letters
        self._partitions = partitions

    async def look(self) -> int:
        """Send what is to be requeued on the input topics that exist here; returns how many.

        A crash before the note of it, or a note that is lost, sends a letter again. Its headers
        name the letter, so that it is one turn all the same (`admission.letter_of`).
        """
        due = await self._letters.due(list(self._partitions), AT_ONCE_MAX)
        await asyncio.gather(*map(self._send, due))
        return len(due)

    async def _send(self, due: Due) -> None:
        topic, letter, requeues = due.key
        to = TopicPartition(topic, min(due.partition, self._partitions[topic] - 1))
        headers = [
            (LETTER_HEADER, str(letter).encode()),
            (REQUEUES_HEADER, str(requeues + 1).encode()),
        ]
        try:
            offset = await self._pump.deliver(to, due.record_key, due.value, headers=headers)
            await self._letters.sent(due.key, to.partition, offset)
        except TurnstreamError as error:
            log.warning("requeue_later", letter=str(letter), topic=topic, error=str(error))
        except Exception as error:  # noqa: BLE001  one letter must not keep the others waiting
            note("requeue", error, letter=str(letter), topic=topic)
        else:
            log.info("letter_requeued", letter=str(letter), topic=topic, partition=to.partition)
