"""Which topic of a name this is: its id, that id's incarnation, and whether it is still the same.

A topic that was deleted and made anew has the name of the old one, and its offsets mean other
records. Reads metadata from Kafka.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol
from uuid import UUID

import structlog
from aiokafka.errors import KafkaError

from turnstream.connectors.kafka.wire.metadata_request import DescribeTopics
from turnstream.schemas.errors import NotFoundError, TopicChangedError

if TYPE_CHECKING:
    from aiokafka.client import AIOKafkaClient

_log = structlog.get_logger(__name__)


class Numbering(Protocol):
    """Gives the ids of a topic their incarnations."""

    async def number(self, topic: str, topic_id: UUID) -> int:
        """Return the incarnation of this id."""
        ...


class TopicIdentity:
    """The id that a topic has since `learn`."""

    def __init__(self, client: AIOKafkaClient, topic: str, numbering: Numbering) -> None:
        self._client = client
        self._topic = topic
        self._numbering = numbering
        self._id = UUID(int=0)

    async def learn(self) -> int:
        """Return the topic's incarnation. Raises `NotFoundError`, `KafkaError`."""
        self._id = await self._read_id()
        return await self._numbering.number(self._topic, self._id)

    async def check(self) -> None:
        """Raise `TopicChangedError` if the topic was made anew, `NotFoundError` if it is gone."""
        try:
            topic_id = await self._read_id()
        except KafkaError as error:
            _log.warning("topic_not_checked", topic=self._topic, error=repr(error))
            return
        if topic_id != self._id:
            raise TopicChangedError(f"topic {self._topic} was made anew")

    async def _read_id(self) -> UUID:
        node = self._client.get_random_node()
        response = await self._client.send(node, DescribeTopics([self._topic]))
        for row in response.to_object()["topics"]:
            if row["name"] == self._topic and row["error_code"] == 0:
                topic_id: UUID = row["topic_id"]
                return topic_id
        raise NotFoundError(f"there is no topic {self._topic}", code="unknown_topic")
