"""A wire against a real broker, and what it says when the connection ends or nobody answers."""

from __future__ import annotations

import asyncio
import time
from io import BytesIO
from typing import TYPE_CHECKING, Any

import pytest
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import (
    CorrelationIdError,
    IncompatibleBrokerVersion,
    KafkaConnectionError,
    RequestTimedOutError,
)
from aiokafka.protocol.admin import ApiVersionRequest_v0, ApiVersionResponse_v0

from turnstream.connectors.kafka.wire.connection import Wire

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

VERSIONS = (ApiVersionRequest_v0.API_KEY, 0, b"")
PRODUCE_TOO_NEW = (0, 99, b"")


@pytest.fixture
async def client(kafka: str) -> AsyncIterator[AIOKafkaClient]:
    opened = AIOKafkaClient(bootstrap_servers=kafka)
    await opened.bootstrap()
    yield opened
    await opened.close()


async def wire_of(client: AIOKafkaClient, timeout_s: float = 60.0) -> Wire:
    return await Wire.open(client, client.get_random_node(), timeout_s)


class Silent(asyncio.Protocol):
    """A peer whose bytes the test says."""

    async def between(self, wire: Wire) -> None:
        """Stand where the broker stood."""
        server = await asyncio.get_running_loop().create_server(lambda: self, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        old = wire._transport
        wire._transport, _ = await asyncio.get_running_loop().create_connection(
            lambda: wire, "127.0.0.1", port
        )
        self.server, self.old = server, old

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def close(self, wire: Wire) -> None:
        wire._transport.close()
        self.transport.close()
        self.server.close()


async def test_answers_come_in_order_as_calls(client: AIOKafkaClient) -> None:
    wire = await wire_of(client)
    told: list[int] = []
    for number in range(50):
        wire.send(
            *VERSIONS, lambda _data, _at, error, n=number: told.append(n if not error else -1)
        )
    data, at = await wire.request(*VERSIONS)
    assert told == list(range(50))
    body = BytesIO(data)
    body.read(at)
    assert ApiVersionResponse_v0.decode(body).error_code == 0


async def test_answers_may_be_cut_anywhere(client: AIOKafkaClient) -> None:
    wire, peer = await wire_of(client), Silent()
    await peer.between(wire)
    asked = [asyncio.ensure_future(wire.request(*VERSIONS)) for _ in range(3)]
    await asyncio.sleep(0)
    said = b"".join(
        (4 + len(body)).to_bytes(4) + n.to_bytes(4) + body
        for n, body in ((1, b"one"), (2, b""), (3, b"x" * 70_000))
    )
    for size in (1, 2, 3, 5, 11):
        piece, said = said[:size], said[size:]
        wire.data_received(piece)
    wire.data_received(said)
    assert [data[at:] for data, at in await asyncio.gather(*asked)] == [
        b"one",
        b"",
        b"x" * 70_000,
    ]
    peer.close(wire)


async def test_a_connection_that_breaks_tells_everybody(client: AIOKafkaClient) -> None:
    wire, peer = await wire_of(client), Silent()
    await peer.between(wire)
    asked = [asyncio.ensure_future(wire.request(*VERSIONS)) for _ in range(3)]
    await asyncio.sleep(0)
    peer.transport.abort()
    for answer in await asyncio.gather(*asked, return_exceptions=True):
        assert isinstance(answer, KafkaConnectionError)
    assert wire.lost
    fresh = await wire_of(client)
    await fresh.request(*VERSIONS)
    peer.close(wire)


async def test_who_gets_no_answer_hears_it_and_the_connection_ends(client: AIOKafkaClient) -> None:
    wire, peer = await wire_of(client, timeout_s=0.1), Silent()
    await peer.between(wire)
    with pytest.raises(RequestTimedOutError):
        await wire.request(*VERSIONS)
    assert wire.lost
    peer.close(wire)


async def test_the_answer_to_something_else_ends_the_connection(client: AIOKafkaClient) -> None:
    wire, peer = await wire_of(client), Silent()
    await peer.between(wire)
    asked = asyncio.ensure_future(wire.request(*VERSIONS))
    await asyncio.sleep(0)
    peer.transport.write((4).to_bytes(4) + (77).to_bytes(4))
    with pytest.raises(CorrelationIdError):
        await asked
    assert wire.lost
    peer.close(wire)


@pytest.mark.parametrize("size", [0, 3, -5])
async def test_an_answer_too_small_to_be_one_ends_the_connection(
    client: AIOKafkaClient, size: int
) -> None:
    wire, peer = await wire_of(client), Silent()
    await peer.between(wire)
    asked = asyncio.ensure_future(wire.request(*VERSIONS))
    await asyncio.sleep(0)
    peer.transport.write(size.to_bytes(4, signed=True) + b"xxxxxxx")
    with pytest.raises(KafkaConnectionError):
        await asked
    assert wire.lost
    peer.close(wire)


async def test_a_version_that_the_broker_lacks_is_not_sent(client: AIOKafkaClient) -> None:
    wire = await wire_of(client)
    with pytest.raises(IncompatibleBrokerVersion):
        await wire.request(*PRODUCE_TOO_NEW)
    await wire.request(*VERSIONS)


async def test_aiokafka_sees_that_the_connection_is_not_idle(client: AIOKafkaClient) -> None:
    wire = await wire_of(client)
    wire._connection._last_action = 0.0
    began = time.monotonic()
    await wire.request(*VERSIONS)
    assert wire._connection._last_action >= began
