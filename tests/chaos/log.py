"""The campaign's own reader of Kafka: a consumer that folds, and keeps what it read."""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from aiokafka import AIOKafkaConsumer, TopicPartition

from turnstream.connectors.avro import Codec
from turnstream.schemas.fold.fold import Change, ThreadFold
from turnstream.schemas.records.results import DEAD_LETTER

if TYPE_CHECKING:
    from turnstream.schemas.records.results import DeadLetter, TurnResult
    from turnstream.schemas.topics import Topics


class Entry(NamedTuple):
    """One record as it came: seconds since 1970, and what the fold made of it."""

    at: float
    offset: int
    record: Any
    change: Change


@dataclass(slots=True)
class ThreadLog:
    """All records of one thread, in log order, and their fold."""

    fold: ThreadFold = field(default_factory=ThreadFold)
    entries: list[Entry] = field(default_factory=list)

    def of(self, turn: str) -> list[Entry]:
        """Return the entries of one turn."""
        return [entry for entry in self.entries if entry.record.turn_id == turn]


class LogReader:
    """Reads every output topic of a stage from its beginning; `run` is its loop."""

    def __init__(self, bootstrap: str, topics: Topics, tenant: str, partitions: int) -> None:
        self.threads: dict[str, ThreadLog] = defaultdict(ThreadLog)
        self.results: dict[str, list[TurnResult]] = defaultdict(list)
        self.letters: list[DeadLetter] = []
        self._topics, self._tenant, self._partitions = topics, tenant, partitions
        self._codec = Codec()
        self._consumer = AIOKafkaConsumer(
            bootstrap_servers=bootstrap,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            fetch_max_wait_ms=100,
        )

    async def __aenter__(self) -> Self:
        await self._consumer.start()
        topics = self._topics
        outputs = (topics.events, topics.results_of(self._tenant), topics.dead_letters)
        self._consumer.assign(
            [TopicPartition(t, p) for t in outputs for p in range(self._partitions)]
        )
        return self

    async def __aexit__(self, *ended: object) -> None:
        await self._consumer.stop()

    async def run(self) -> None:
        """Read until cancelled."""
        async for message in self._consumer:
            record = self._codec.decode(message.value)
            if message.topic == self._topics.dead_letters:
                self.letters.append(record)
            elif message.topic != self._topics.events:
                if record.code != DEAD_LETTER:  # else the turn's own result may follow
                    self.results[record.turn_id].append(record)
            else:
                thread = self.threads[record.thread_id]
                change = thread.fold.apply(record, message.offset)
                thread.entries.append(Entry(time.time(), message.offset, record, change))

    def forget(self, threads: list[str], turns: list[str]) -> None:
        """Drop what was read of a story that is over."""
        for thread in threads:
            self.threads.pop(thread, None)
        for turn in turns:
            self.results.pop(turn, None)
