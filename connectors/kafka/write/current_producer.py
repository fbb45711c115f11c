"""The producer that the pump sends with now, and its replacement by a fresh one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, TypeAlias

import structlog
from aiokafka.errors import KafkaError

from turnstream.schemas.errors import UnavailableError

if TYPE_CHECKING:
    from aiokafka import TopicPartition

    from turnstream.connectors.kafka.write.producer import Producer

log = structlog.get_logger(__name__)

OpenProducer: TypeAlias = Callable[[], Awaitable["Producer"]]

REOPEN_PAUSE_S = 0.5
PROBE_TIMEOUT_S = 2.0
CLOSE_TIMEOUT_S = 5.0


class CurrentProducer:
    """At most one producer that takes new batches; replaced ones close once their batches ended.

    `spent`: a batch of it was refused, so it may send nothing more. `opening_since` is a time of
    `clock` while a fresh one is being opened.
    """

    def __init__(self, open_producer: OpenProducer, clock: Callable[[], float]) -> None:
        self.spent = False
        self.opening_since: float | None = None
        self._open_producer = open_producer
        self._clock = clock
        self._producer: Producer | None = None
        self._closing: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Open a producer if there is none. Raises what opening raises."""
        if self._producer is None:
            self._producer = await self._open_producer()

    @property
    def usable(self) -> bool:
        """Whether there is a producer and it is not spent."""
        return self._producer is not None and not self.spent

    def get(self) -> Producer:
        """Return the producer."""
        if self._producer is None:
            raise RuntimeError("the pump has no producer: await its start, or let it run")
        return self._producer

    def leader(self, to: TopicPartition) -> int:
        """Return the partition's leader, -1 where none is known."""
        if self._producer is None:
            raise RuntimeError("the pump has no producer: await its start, or let it run")
        return self._producer.leader(to)

    def spend(self) -> None:
        """Let it send nothing more."""
        self.spent = True

    async def probe(self) -> bool:
        """Tell whether a broker answers within `PROBE_TIMEOUT_S`."""
        if self._producer is not None:
            with suppress(TimeoutError, KafkaError):
                async with asyncio.timeout(PROBE_TIMEOUT_S):
                    return await self._producer.probe()
        return False

    async def replace(self) -> None:
        """Open a fresh producer, with a pause after each failure, and close the one before."""
        self.opening_since = self._clock()
        while True:
            try:
                fresh = await self._open_producer()
                break
            except (KafkaError, UnavailableError) as error:
                log.warning("producer_not_opened", error=repr(error))
                await asyncio.sleep(REOPEN_PAUSE_S)
        old, self._producer = self._producer, fresh
        self.opening_since = None
        self.spent = False
        if old is not None:
            closing = asyncio.create_task(old.stop())
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        """Close every producer; after `CLOSE_TIMEOUT_S` without waiting for acks."""
        producer, self._producer = self._producer, None
        tasks = set(self._closing)
        if producer is not None:
            tasks.add(asyncio.create_task(producer.stop()))
        if not tasks:
            return
        # a producer that cannot reach its broker would wait for its acks for ever
        _, late = await asyncio.wait(tasks, timeout=CLOSE_TIMEOUT_S)
        for task in late:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
