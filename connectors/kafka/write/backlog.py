"""What waits to be produced: records by partition, in the order they were put. No I/O, no clock."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

    from aiokafka import TopicPartition

    from turnstream.connectors.kafka.write.outgoing import Record, Sender
    from turnstream.connectors.kafka.write.producer import Batch


class Backlog:
    """Queued records and open senders of every partition; `value_bytes` counts the queued values.

    A sender is open while it has something that is not a record yet; `take` seals it.
    """

    def __init__(self) -> None:
        self.value_bytes = 0
        self._queues: dict[TopicPartition, deque[Record]] = {}
        self._open: dict[TopicPartition, dict[Sender, None]] = {}

    def put(self, to: TopicPartition, record: Record) -> None:
        """Queue a record behind those already put for its partition."""
        queue = self._queues.get(to)
        if queue is None:
            queue = self._queues[to] = deque()
        queue.append(record)
        self.value_bytes += len(record[3])

    def mark(self, to: TopicPartition, sender: Sender) -> None:
        """Note that a sender is open."""
        senders = self._open.get(to)
        if senders is None:
            senders = self._open[to] = {}
        senders[sender] = None

    @property
    def empty(self) -> bool:
        """Whether nothing is queued or open."""
        return not (self._open or any(self._queues.values()))

    def partitions(self) -> Collection[TopicPartition]:
        """Return the partitions for which something is queued or open."""
        return {**self._open, **self._queues}

    def seal(self, to: TopicPartition) -> bool:
        """Let the partition's open senders put what they have; tell whether records are queued."""
        for sender in self._open.pop(to, ()):
            if not sender.dead:
                sender.seal()
        return bool(self._queues.get(to))

    def fill(self, to: TopicPartition, batch: Batch) -> list[Record]:
        """Move records into the batch until it is full; drop those of dead senders."""
        queue = self._queues[to]
        taken: list[Record] = []
        while queue:
            record = queue[0]
            sender, _n, key, value, headers = record
            if not sender.dead:
                if not batch.append(key, value, headers):
                    break
                taken.append(record)
            self.value_bytes -= len(value)
            queue.popleft()
        if not queue:
            del self._queues[to]
        return taken
