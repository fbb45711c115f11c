"""The results that a client awaits, as their topic brings them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import structlog
from aiokafka import TopicPartition

from turnstream.connectors.kafka.wire.consumers import partitions_of
from turnstream.schemas.errors import (
    InvalidRequestError,
    KafkaUnavailableError,
    TooManyRequestsError,
    UndecodableError,
)
from turnstream.schemas.records.results import DEAD_LETTER, TurnResult

if TYPE_CHECKING:
    from aiokafka import AIOKafkaConsumer

    from turnstream.connectors.avro import Codec

_log = structlog.get_logger(__name__)
_POLL_MS = 1000


class Results:
    """Reads one tenant's results and matches them to the turns that are awaited.

    `pending_max`: the turns that are awaited at once.
    """

    def __init__(
        self, consumer: AIOKafkaConsumer, topic: str, codec: Codec, pending_max: int
    ) -> None:
        self._consumer, self._topic, self._codec = consumer, topic, codec
        self._pending_max = pending_max
        self._pending: dict[str, asyncio.Future[TurnResult]] = {}
        self._reading: asyncio.Task[None] | None = None

    async def seek_to_end(self) -> None:
        """Begin at the end that the topic has now."""
        numbers = await partitions_of(self._consumer, self._topic)
        targets = [TopicPartition(self._topic, number) for number in numbers]
        self._consumer.assign(targets)
        for target, offset in (await self._consumer.end_offsets(targets)).items():
            self._consumer.seek(target, offset)

    def start(self) -> None:
        """Read from now on."""
        self._reading = asyncio.create_task(self._read(), name="turn-results")

    async def stop(self) -> None:
        """Stop reading; `wait` raises from now on."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)

    def expect(self, turn_id: str) -> None:
        """Keep the turn's result for `wait`; raises `TooManyRequestsError`."""
        if turn_id in self._pending:
            return
        if len(self._pending) >= self._pending_max:
            raise TooManyRequestsError(f"{self._pending_max} results are awaited already")
        self._pending[turn_id] = asyncio.get_running_loop().create_future()

    def forget(self, turn_id: str) -> None:
        """Await the turn's result no more."""
        self._pending.pop(turn_id, None)

    async def wait(self, turn_id: str, timeout_s: float | None) -> TurnResult:
        """Return the result of an expected turn, once.

        Raises `TimeoutError`, `InvalidRequestError` for a turn that is not expected, and
        `KafkaUnavailableError` where the reading has ended.
        """
        waiting = self._pending.get(turn_id)
        if waiting is None:
            raise InvalidRequestError(f"turn {turn_id} is not awaited", field="turn_id")
        async with asyncio.timeout(timeout_s):
            await self._until(waiting)
        return self._pending.pop(turn_id).result()

    async def _until(self, waiting: asyncio.Future[TurnResult]) -> None:
        """Wait for the result, or for the end of the reading, whose error is then raised."""
        reading = self._reading
        if reading is None:
            raise KafkaUnavailableError("the client is not open")
        both: set[asyncio.Future[Any]] = {waiting, reading}
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        if not waiting.done():
            reading.result()
            raise KafkaUnavailableError("the client has been closed")

    async def _read(self) -> None:
        while True:
            for records in (await self._consumer.getmany(timeout_ms=_POLL_MS)).values():
                for record in records:
                    self._take(record.value or b"")

    def _take(self, value: bytes) -> None:
        try:
            result = self._codec.decode(value)
        except UndecodableError as error:
            _log.warning("result_undecodable", code=error.code, topic=self._topic)
            return
        if not isinstance(result, TurnResult):
            return
        waiting = self._pending.get(result.turn_id)
        if waiting is None:
            return
        if not waiting.done():
            waiting.set_result(result)  # repeats are equal: the first one counts
        elif waiting.result().code == DEAD_LETTER != result.code:
            # the letter was requeued, and this is the turn's own result
            renewed: asyncio.Future[TurnResult] = asyncio.get_running_loop().create_future()
            renewed.set_result(result)
            self._pending[result.turn_id] = renewed
