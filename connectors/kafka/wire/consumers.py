"""aiokafka's consumers, made to read what any producer may have written; see `batches.readable`.

`read_readable` stands between a consumer and its client: it makes a broker's answer to a fetch
readable before aiokafka's fetcher gets it. Compressed answers are read in a thread, because 64 MiB
take a tenth of a second.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeAlias

from aiokafka import AIOKafkaConsumer

from turnstream.connectors.kafka.read.batch_layout import is_compressed
from turnstream.connectors.kafka.read.batches import BATCH_BYTES_MAX, Budget, readable
from turnstream.connectors.kafka.wire.clients import client_options

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from aiokafka.admin import AIOKafkaAdminClient
    from aiokafka.protocol.api import Request, Response

    _Topic: TypeAlias = tuple[str, Sequence[tuple[Any, ...]]]
    """A topic of aiokafka's fetch answer; the bytes stand last in each partition's row."""

FETCH = 1


def new_consumer(
    bootstrap: str, batch_bytes_max: int = BATCH_BYTES_MAX, **options: object
) -> AIOKafkaConsumer:
    """Return a consumer, not started, that reads every fetch; `options` are aiokafka's.

    `batch_bytes_max`: bytes that one fetch may have when it is decompressed.
    """
    consumer = AIOKafkaConsumer(**client_options(bootstrap, options), check_crcs=False)
    read_readable(consumer, batch_bytes_max)
    return consumer


def read_readable(consumer: AIOKafkaConsumer, batch_bytes_max: int = BATCH_BYTES_MAX) -> None:
    """Make a consumer read every fetch; it has to be one with `check_crcs=False`."""
    client = consumer._client  # noqa: SLF001  aiokafka offers no other way
    send: Callable[..., Awaitable[Response]] = client.send

    async def send_and_read(node: int, request: Request, **options: object) -> Response:
        response = await send(node, request, **options)
        if getattr(response, "API_KEY", None) == FETCH:
            positions = {
                (topic, number): offset
                for topic, partitions in request.topics
                for number, offset, *_ in partitions
            }
            response.topics = await _topics(response.topics, positions, Budget(batch_bytes_max))
        return response

    client.send = send_and_read


async def partitions_of(consumer: AIOKafkaConsumer, topic: str) -> list[int]:
    """Return the numbers of a topic's partitions, in order. Raises `KafkaError`.

    No public call makes a consumer fetch a topic's metadata without an assignment.
    """
    numbers: set[int] = await consumer._client._wait_on_metadata(topic)  # noqa: SLF001
    return sorted(numbers)


async def ask_any(admin: AIOKafkaAdminClient, request: Request) -> Response:
    """Return some broker's answer to a request for which aiokafka's admin client has no call."""
    client = admin._client  # noqa: SLF001
    return await client.send(client.get_random_node(), request)


async def _topics(
    topics: Sequence[_Topic], positions: dict[tuple[str, int], int], budget: Budget
) -> list[_Topic]:
    """Return a fetch answer's topics with bytes that can be read; they stand last in each row."""
    read: list[_Topic] = []
    for topic, partitions in topics:
        rows: list[tuple[Any, ...]] = []
        for number, *fields, raw in partitions:
            found = raw
            if raw:
                position = positions.get((topic, number), 0)
                if is_compressed(raw):
                    found = await asyncio.to_thread(readable, raw, position, budget)
                else:
                    found = readable(raw, position, budget)
            rows.append((number, *fields, found))
        read.append((topic, rows))
    return read
