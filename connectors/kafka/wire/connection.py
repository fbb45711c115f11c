"""Requests of the hot path on a broker's connection: the answer is a call, without a task.

aiokafka opens the connection: it knows brokers, TLS, SASL and versions. Then a wire takes its
streams off the transport, because a request passes two tasks and three futures there. A connection
that a wire has taken carries only its requests.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from struct import Struct
from typing import TYPE_CHECKING, Self

from aiokafka.client import ConnectionGroup
from aiokafka.conn import CloseReason
from aiokafka.errors import (
    CorrelationIdError,
    IncompatibleBrokerVersion,
    KafkaConnectionError,
    NodeNotReadyError,
    RequestTimedOutError,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiokafka.client import AIOKafkaClient
    from aiokafka.conn import AIOKafkaConnection
    from aiokafka.errors import KafkaError

    Told = Callable[[bytes, int, KafkaError | None], None]
    """Takes an answer: its bytes and where in them the body begins, or what went wrong."""

_SIZE = Struct(">i")
_HEAD = Struct(">ihhih")  # size, API, version, correlation, length of the client's id
_UNSIZED = _HEAD.size - _SIZE.size
_CORRELATION_MASK = 0x7FFFFFFF


class Wire(asyncio.Protocol):
    """One connection to one broker; answers come in the order of the requests."""

    def __init__(self, connection: AIOKafkaConnection, client_id: str, timeout_s: float) -> None:
        self._connection = connection
        self._writer = connection._writer  # noqa: SLF001  aiokafka offers no other way
        self._streams = connection._protocol  # noqa: SLF001
        self._client_id = client_id.encode()
        self._timeout_s = timeout_s
        self._loop = asyncio.get_running_loop()
        self._parts: list[bytes] = []
        self._missing = 0
        self._correlation = 0
        self._waiting: deque[tuple[int, float, Told]] = deque()
        self._watch: asyncio.TimerHandle | None = None
        self.lost = False
        self._transport = self._writer.transport
        self._transport.set_protocol(self)

    @classmethod
    async def open(cls, client: AIOKafkaClient, node: int, timeout_s: float) -> Self:
        """Take the client's second connection to a broker. Raises `NodeNotReadyError`."""
        group = ConnectionGroup.COORDINATION  # the first one carries metadata
        if not await client.ready(node, group=group):
            raise NodeNotReadyError(f"broker {node} cannot be reached")
        connection = client._conns[node, group]  # noqa: SLF001  aiokafka offers no other way
        return cls(connection, client._client_id, timeout_s)  # noqa: SLF001

    def send(self, api: int, version: int, body: bytes, told: Told) -> None:
        """Send a request; `told` is called once. Raises `IncompatibleBrokerVersion`."""
        low, high = self._connection._versions[api]  # noqa: SLF001
        if not low <= version <= high:
            raise IncompatibleBrokerVersion(f"API {api}: {version} is not in {low} to {high}")
        self._correlation = correlation = self._correlation + 1 & _CORRELATION_MASK
        name = self._client_id
        size = _UNSIZED + len(name) + len(body)
        now = time.monotonic()
        self._waiting.append((correlation, now + self._timeout_s, told))
        if self._watch is None:
            self._watch = self._loop.call_later(self._timeout_s, self._look)
        self._transport.write(
            b"".join((_HEAD.pack(size, api, version, correlation, len(name)), name, body))
        )

    async def request(self, api: int, version: int, body: bytes) -> tuple[bytes, int]:
        """Send a request and return its answer: bytes, and where the body begins."""
        answer: asyncio.Future[tuple[bytes, int]] = self._loop.create_future()

        def told(data: bytes, at: int, error: KafkaError | None) -> None:
            if not answer.done():
                if error is not None:
                    answer.set_exception(error)
                else:
                    answer.set_result((data, at))

        self.send(api, version, body, told)
        return await answer

    def close(self, error: KafkaError | None = None) -> None:
        """Close the connection; every request that waits fails with `error`."""
        self.lost = True
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        reason = CloseReason.CONNECTION_BROKEN if error else CloseReason.SHUTDOWN
        self._connection.close(reason=reason, exc=error)
        waiting, self._waiting = self._waiting, deque()
        for _, _, told in waiting:
            told(b"", 0, error or KafkaConnectionError("the connection was closed"))

    def _look(self) -> None:
        """Close when the oldest request has waited too long; one timer, not one a request."""
        self._watch = None
        if not self._waiting:
            return
        left = self._waiting[0][1] - time.monotonic()
        if left > 0:
            self._watch = self._loop.call_later(left, self._look)
        else:
            self.close(RequestTimedOutError())

    # -- what the loop calls -------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Call back the requests whose answers are whole."""
        if self._parts:  # joined once an answer is whole: megabytes come in hundreds of pieces
            self._parts.append(data)
            self._missing -= len(data)
            if self._missing > 0:
                return
            data = b"".join(self._parts)
            self._parts.clear()
        at, end = 0, len(data)
        while at < end and not self.lost:
            begin = at + _SIZE.size
            size = _SIZE.unpack_from(data, at)[0] if begin <= end else 0
            if begin + size > end:
                self._parts.append(data[at:] if at else data)
                self._missing = begin + size - end
                return
            if size < _SIZE.size:
                self.close(KafkaConnectionError(f"an answer of {size} bytes"))
                return
            at = begin + size
            (correlation,) = _SIZE.unpack_from(data, begin)
            if not self._waiting or self._waiting[0][0] != correlation:
                self.close(CorrelationIdError(f"no request waits for answer {correlation}"))
                return
            _, _, told = self._waiting.popleft()
            self._connection._last_action = time.monotonic()  # noqa: SLF001  it is not idle
            if at == end:  # nearly always: no other answer follows
                told(data, begin + _SIZE.size, None)
            else:
                told(data[begin:at], _SIZE.size, None)

    def connection_lost(self, error: Exception | None) -> None:
        """Fail the requests that wait, and let aiokafka know."""
        self._streams.connection_lost(error)
        if not self.lost:
            self.close(KafkaConnectionError(f"the connection broke: {error!r}"))

    def pause_writing(self) -> None:
        """Do nothing: senders wait for answers, which bounds the bytes on their way."""

    def resume_writing(self) -> None:
        """Do nothing, see `pause_writing`."""
