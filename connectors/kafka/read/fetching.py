"""Fetches of the tail: one loop a broker, which never sleeps between fetches.

`fetch_max_wait_ms` is the knob. Fetches go straight through aiokafka's client, because its consumer
makes an object of each record whether it has a follower or not, and does not hand out the raw
bytes. Reads Kafka only.
"""

from __future__ import annotations

import asyncio
import math
import time
from typing import TYPE_CHECKING

import structlog
from aiokafka.errors import (
    KafkaError,
    NotLeaderForPartitionError,
    OffsetOutOfRangeError,
    UnknownTopicOrPartitionError,
    for_code,
)
from aiokafka.structs import TopicPartition

from turnstream.connectors.kafka.read.batches import Budget, made_readable
from turnstream.connectors.kafka.wire.clients import AWAY_PAUSE_S, REQUEST_TIMEOUT_MS
from turnstream.connectors.kafka.wire.connection import Wire
from turnstream.connectors.kafka.wire.fetch_request import (
    FETCH,
    FETCH_VERSION,
    Fetched,
    FetchSession,
)
from turnstream.connectors.kafka.wire.pauses import Pauses

if TYPE_CHECKING:
    from aiokafka.client import AIOKafkaClient

    from turnstream.connectors.kafka.read.followed import Followed
    from turnstream.connectors.kafka.read.log_reads import LogReads
    from turnstream.connectors.kafka.read.tail import TailOptions
    from turnstream.connectors.kafka.read.topic_identity import TopicIdentity

_log = structlog.get_logger(__name__)

LEADERS_S = 1.0
_PAUSE_S = 0.1
# the broker restarted, or gave the session's room to others: no reason to pause
_SESSION_OVER = frozenset({70, 71})


class Fetching:
    """Fetches of one topic's partitions from the brokers that lead them, into `followed`.

    `fetches` counts the answers; `answered_at` is when the last one came (monotonic, 0 for none).
    """

    def __init__(
        self,
        client: AIOKafkaClient,
        topic: str,
        followed: Followed,
        *,
        log: LogReads,
        identity: TopicIdentity,
        options: TailOptions,
    ) -> None:
        self.fetches = 0
        self.answered_at = 0.0
        self._client = client
        self._topic = topic
        self._followed = followed
        self._log = log
        self._identity = identity
        self._options = options

    def leaders(self) -> set[int]:
        """Return the brokers that lead something of the topic; asks anew where none is known."""
        cluster = self._client.cluster
        found: set[int] = set()
        for number in self._followed.positions:
            node = cluster.leader_for_partition(TopicPartition(self._topic, number))
            if node is None or node == -1:
                self._client.force_metadata_update()
            else:
                found.add(node)
        return found

    def _led_by(self, node: int) -> list[int]:
        leader = self._client.cluster.leader_for_partition
        return [
            number
            for number in self._followed.positions
            if leader(TopicPartition(self._topic, number)) == node
        ]

    def _session(self) -> FetchSession:
        options = self._options
        return FetchSession(
            self._topic,
            max_wait_ms=options.fetch_max_wait_ms,
            min_bytes=options.fetch_min_bytes,
            max_bytes=options.fetch_bytes_max,
            partition_bytes_max=options.partition_fetch_bytes_max,
        )

    async def from_broker(self, node: int) -> None:
        """Fetch from one broker until it leads nothing of the topic.

        Raises `TopicChangedError`, `NotFoundError`.
        """
        session = self._session()
        positions = self._followed.positions
        pauses = Pauses(_PAUSE_S, AWAY_PAUSE_S)
        wire: Wire | None = None
        led: list[int] = []
        looked_at = -math.inf
        while True:
            # a leader that changes answers with an error, or not at all
            if time.monotonic() - looked_at > LEADERS_S:
                led, looked_at = self._led_by(node), time.monotonic()
            if not led:
                return
            request = session.request({number: positions[number] for number in led})
            try:
                if wire is None or wire.lost:
                    wire = await Wire.open(self._client, node, REQUEST_TIMEOUT_MS / 1000)
                answer, at = await wire.request(FETCH, FETCH_VERSION, request.body)
            except KafkaError as error:
                _log.warning("fetch_failed", node=node, error=repr(error))
                session.restart()
                await asyncio.sleep(pauses.after_failure_s())
                self._client.force_metadata_update()
                looked_at = -math.inf
                continue
            response = Fetched.parse(answer, at)
            session.answered(response)
            pauses.reset()
            self.fetches += 1
            self.answered_at = time.monotonic()
            if response.error and response.error not in _SESSION_OVER:
                _log.warning("fetch_refused", node=node, error=for_code(response.error).__name__)
                await asyncio.sleep(_PAUSE_S)
            if await self._take(response):
                looked_at = -math.inf

    async def _take(self, response: Fetched) -> bool:
        """Hand over what a broker gave; tell whether it refused a partition."""
        followed = self._followed
        budget = Budget(self._options.batch_bytes_max)
        refused = False
        for number, code, raw in response.partitions:
            if code:
                await self.refused(number, for_code(code))
                refused = True
            elif raw:
                plain = await made_readable(raw, followed.positions[number], budget)
                followed.take(number, plain)
        followed.look_ready()
        return refused

    async def refused(self, number: int, error: type[KafkaError]) -> None:
        """Do what a broker's refusal of a partition asks for.

        Raises `TopicChangedError`, `NotFoundError`.
        """
        if error is not OffsetOutOfRangeError:
            if error in (NotLeaderForPartitionError, UnknownTopicOrPartitionError):
                self._client.force_metadata_update()
            else:
                _log.warning("partition_not_readable", partition=number, error=error.__name__)
            await asyncio.sleep(_PAUSE_S)
            return
        await self._identity.check()
        first, end = await self._log.bounds(number)
        position = self._followed.positions[number]
        if first <= position <= end:  # a former leader, frozen meanwhile, does not know its end
            self._client.force_metadata_update()
            await asyncio.sleep(_PAUSE_S)
            return
        # behind the log's start: retention was faster; past its end: an unclean election cut it
        start = first if position < first else end
        _log.error("log_moved_away", partition=number, position=position, first=first, end=end)
        self._followed.restart(number, start)
