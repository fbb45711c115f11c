"""Deletes old turns, tool calls and decisions from Postgres.

The ledger keeps what it admitted, so that a command that arrives again does not run again. It may
forget a command once no topic can bring it back: `horizon` returns that age. Every worker purges
now and then; the ledger lets one worker purge at a time.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import timedelta
from typing import TYPE_CHECKING

import structlog

from turnstream.schemas.errors import DatabaseUnavailableError, KafkaUnavailableError
from turnstream.schemas.unexpected import note
from turnstream.streams.worker.polls import jitter

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping

    from turnstream.connectors.postgres.ledger.ledger import Ledger

    TopicSettings = Mapping[str, str]  # of one topic, by Kafka's names

log = structlog.get_logger(__name__)

FIRST_AFTER_S = 30.0
"""Seconds before the first purge, so that it does not slow the start of a fleet."""

EVERY_S = 900.0
BATCH_MAX = 500
"""Rows of one table in one transaction: a few milliseconds."""

PAUSE_S = 0.1
"""Seconds between two batches, so that a large purge is no load."""

MARGIN = timedelta(days=7)
"""On top of a topic's retention: Kafka deletes by segments, which are up to `segment.ms` long."""

FOR_EVER = timedelta(days=36_500)


class Purge:
    """Purges now and then. `settings_of_topics` asks Kafka, because a retention may be changed.

    The topics are inputs, results and dead letters. `forgot` is called for each batch, with the
    table and the number of rows.
    """

    def __init__(
        self,
        ledger: Ledger,
        settings_of_topics: Callable[[], Awaitable[Iterable[TopicSettings]]],
        *,
        after: timedelta,
        forgot: Callable[[str, int], None],
    ) -> None:
        self._ledger = ledger
        self._settings_of_topics = settings_of_topics
        self._after = after
        self._forgot = forgot

    async def run(self) -> None:
        """Purge until cancelled; an outage of Kafka or Postgres only delays it."""
        await asyncio.sleep(jitter(FIRST_AFTER_S))
        while True:
            try:
                await self.look()
            except (DatabaseUnavailableError, KafkaUnavailableError) as error:
                log.warning("purge_waits", error=str(error))
            except Exception as error:  # noqa: BLE001  a failed purge must not end the worker
                note("purge", error)
            await asyncio.sleep(jitter(EVERY_S))

    async def look(self) -> dict[str, int]:
        """Purge until nothing is left to purge; returns the rows forgotten of each table."""
        age = horizon(self._after, await self._settings_of_topics())
        if age is None:
            log.info("purge_off", reason="a topic is kept for ever, or says nothing")
            return {}
        total: Counter[str] = Counter()
        while gone := await self._ledger.purge(age, BATCH_MAX):
            total.update(gone)
            for table, rows in gone.items():
                self._forgot(table, rows)
            if max(gone.values()) < BATCH_MAX:
                break
            await asyncio.sleep(jitter(PAUSE_S))
        forgotten = {table: rows for table, rows in total.items() if rows}
        if forgotten:
            log.info("purged", older_than_days=age / timedelta(days=1), **forgotten)
        return forgotten


def horizon(after: timedelta, topics: Iterable[TopicSettings]) -> timedelta | None:
    """Return the age from which the ledger may forget: `after`, or more if topics keep longer.

    A topic keeps a record for its retention and `MARGIN`, or its `segment.ms` if that is longer.
    None, never, if one of the topics is not deleted from by time.
    """
    ages = [after]
    for settings in topics:
        kept = _span(settings.get("retention.ms", "-1"))
        if kept == FOR_EVER or settings.get("cleanup.policy", "delete") != "delete":
            return None
        ages.append(kept + max(MARGIN, _span(settings.get("segment.ms", "0"))))
    return max(ages)


def _span(milliseconds: str) -> timedelta:
    """Return a span of Kafka's; `FOR_EVER` for -1 and for what exceeds the calendar."""
    span = int(milliseconds)
    most = FOR_EVER // timedelta(milliseconds=1)
    return timedelta(milliseconds=span) if 0 <= span < most else FOR_EVER
