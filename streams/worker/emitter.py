"""One attempt's voice: gives out `n`, joins tokens, and knows what the log has taken.

`TurnEmitter` is what the graph emits into (`graph.ports.emitter.Emitter`), what the saver asks for
its position, and what the pump seals and acknowledges. Nothing in it awaits but `acked`. It belongs
to one event loop: code in threads emits through that loop.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from turnstream.connectors.avro_tokens import TokenEncoder
from turnstream.connectors.kafka.write.outgoing import RECORD_OVERHEAD
from turnstream.schemas.errors import (
    FencedError,
    OutputOverrunError,
    ProduceRefusedError,
    RecordTooLargeError,
    UndecodableError,
)
from turnstream.schemas.ids import event_id, thread_key
from turnstream.schemas.records.events import (
    EVENTS,
    AttemptStarted,
    Event,
    InputRequested,
    TaskRetried,
    TokensEmitted,
)
from turnstream.schemas.text import clean_text
from turnstream.schemas.topics import EVENT_BYTES_MAX

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiokafka import TopicPartition

    from turnstream.connectors.avro import Codec
    from turnstream.connectors.kafka.write.outgoing import Headers
    from turnstream.connectors.kafka.write.pump import Pump
    from turnstream.schemas.records.events import InputResolved

JOIN_CHARS_MAX = 64 << 10
"""Characters of one `TokensEmitted`: at 4 bytes each still a fraction of the topic's limit."""

UNACKED_BYTES_MAX = 16 << 20
"""What one turn may have on its way to the log: hours of a model, moments of a runaway loop."""

ENDING_EVENTS_MAX = 1000
"""Events that a turn may still emit after it reached its limit: tasks and tool calls that stop."""

_URGENT = (AttemptStarted, InputRequested)
_TYPE_HEADERS: dict[type[Event], Headers] = {
    event_type: [("type", event_type.__name__.encode())] for event_type in EVENTS
}
_TOKENS_HEADERS = _TYPE_HEADERS[TokensEmitted]


class _Tokens:
    """Tokens of one message that have met since the last round."""

    __slots__ = ("block", "chars", "kind", "parts", "path", "tool_call_id", "tool_name")

    def __init__(self, path: str, block: int, kind: str, tool_call_id: str, tool_name: str) -> None:
        self.path = path
        self.block = block
        self.kind = kind
        self.tool_call_id = tool_call_id
        self.tool_name = tool_name
        self.parts: list[str] = []
        self.chars = 0


class TurnEmitter:
    """Everything that one attempt says, in one order.

    `n`: the attempt's start, `high_n` of its claim. `on_refused` is called once when the broker
    refused a record of it: nothing more is sent then, and the attempt is over. `events_max`: events
    of the turn, and tokens of the attempt, each; above it an `OutputOverrunError` is raised.
    """

    def __init__(
        self,
        pump: Pump,
        codec: Codec,
        to: TopicPartition,
        *,
        tenant: str,
        thread_id: str,
        turn_id: str,
        epoch: int,
        n: int = 0,
        actor: str = "",
        traceparent: str = "",
        record_bytes_max: int = EVENT_BYTES_MAX,
        unacked_bytes_max: int = UNACKED_BYTES_MAX,
        events_max: float = math.inf,
        on_refused: Callable[[ProduceRefusedError], None] | None = None,
        now_us: Callable[[], int] = lambda: time.time_ns() // 1000,
    ) -> None:
        self._pump = pump
        self._codec = codec
        self._to = to
        self._key = thread_key(tenant, thread_id).encode()
        self._envelope: dict[str, Any] = {
            "tenant": tenant,
            "thread_id": thread_id,
            "turn_id": turn_id,
            "epoch": epoch,
            "actor": actor,
            "traceparent": traceparent,
        }
        self._tokens = TokenEncoder(codec, **self._envelope)
        self._turn_id = turn_id
        self._epoch = epoch
        self._record_bytes_max = record_bytes_max - RECORD_OVERHEAD - len(self._key)
        self._unacked_bytes_max = unacked_bytes_max
        self._events_max = events_max
        # a character takes at most 4 bytes, and the envelope has its share
        self._join_chars_max = min(JOIN_CHARS_MAX, self._record_bytes_max // 8)
        self._on_refused = on_refused
        self._now_us = now_us
        self._n = n
        self._acked_n = n - 1  # the fence itself is said at `high_n`
        self._open: dict[str, _Tokens] = {}
        self._unacked: deque[int] = deque()
        self._unacked_bytes = 0
        self._said_token = False
        self._waiters: list[tuple[int, asyncio.Future[None]]] = []
        self._error: Exception | None = None
        self.closed = False
        self.dead = False
        self.first_off: int | None = None
        self.last_off: int | None = None
        self.tokens_said = 0
        self.retries = 0
        self.first_token_s: float | None = None
        self._began_at = time.monotonic()

    # -- what the graph calls ------------------------------------------------------------------

    def emit(self, event_type: type[Event], *, path: str, **fields: Any) -> int:
        """Say one event: give out its `n`, which is returned, and hand it over, in one step.

        After the emitter was closed nothing happens (0). Raises `RecordTooLargeError` for one
        larger than the topic takes, before its `n` is given out, and `OutputOverrunError`.
        """
        if self.closed:
            return 0
        self._check_room()
        self._say(event_type, path, fields, urgent=event_type in _URGENT)
        self.retries += event_type is TaskRetried
        return self._n

    def tokens(
        self,
        *,
        path: str,
        message_id: str,
        block: int,
        kind: str,
        text: str,
        tool_call_id: str = "",
        tool_name: str = "",
    ) -> None:
        """Say a token; those of one message that meet in one round become one record."""
        if self.closed:
            return
        self.tokens_said += 1
        held = self._open.get(message_id)
        if held is not None:
            if (
                held.block == block
                and held.kind == kind
                and held.path == path
                and (not tool_call_id or tool_call_id == held.tool_call_id)
            ):
                held.parts.append(text)
                held.chars += len(text)
                if held.chars > self._join_chars_max:
                    self._check_room()
                    self.seal()
                return
            self.seal()
        self._check_room()
        held = self._open[message_id] = _Tokens(path, block, kind, tool_call_id, tool_name)
        held.parts.append(text)
        held.chars = len(text)
        first = not self._said_token
        if first:
            self._said_token = True
            self.first_token_s = time.monotonic() - self._began_at
        self._pump.mark(self._to, self, urgent=first)

    def close(self) -> None:
        """End what the graph may say; what it has said is sealed."""
        if not self.closed:
            if not self.dead:
                self.seal()
            self.closed = True

    # -- what the attempt calls ----------------------------------------------------------------

    def start(self, *, resolved: tuple[InputResolved, ...] = (), **fields: Any) -> None:
        """Say the fence. It has the `n` of the claim, and thread events go before it.

        So a commit, which awaits the fence, never stands while one of those is missing.
        """
        for thread_event in resolved:
            value = self._codec.encode(thread_event)
            self._put(value, self._n - 1, _TYPE_HEADERS[type(thread_event)], urgent=True)
        record, value = self._encoded(AttemptStarted, self._n, "", fields)
        headers = _TYPE_HEADERS[AttemptStarted]
        if record.traceparent:
            headers = [*headers, ("traceparent", record.traceparent.encode())]
        self._put(value, self._n, headers, urgent=True)

    def conclude(self, event_type: type[Event], **fields: Any) -> int:
        """Say the terminal and return its `n`; works on a closed emitter, and only there is it due.

        One too large for the topic goes without its text: the digest stays, and the text stands in
        the tokens before it.
        """
        self.close()
        try:
            self._say(event_type, "", fields, urgent=True)
        except RecordTooLargeError:
            self._say(event_type, "", {**fields, "text": ""}, urgent=True)
        return self._n

    def kill(self, error: Exception | None = None) -> None:
        """End the attempt without a word: nothing more is sent, and who waits for acks hears it."""
        self.closed = True
        self.dead = True
        self._open.clear()
        self._error = self._error or error or FencedError("the attempt is over")
        waiters, self._waiters = self._waiters, []
        for _n, waiter in waiters:
            if not waiter.done():
                waiter.set_exception(self._error)

    def let_go(self) -> None:
        """Refer to the attempt no longer: it is over."""
        self._on_refused = None

    # -- what the saver calls ------------------------------------------------------------------

    @property
    def n(self) -> int:
        """The last `n` given out, after sealing what was open."""
        if self._open and not self.dead:
            self.seal()
        return self._n

    async def acked(self, n: int) -> None:
        """Wait until everything up to `n` is in the log.

        Raises `ProduceRefusedError` or `FencedError` when the attempt is over before that.
        """
        if self._acked_n >= n:
            return
        if self._error is not None:
            raise self._error
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append((n, waiter))
        self._pump.hurry()
        await waiter

    # -- what the pump calls, see `connectors.kafka.write.outgoing.Sender` -----------------------

    def seal(self) -> None:
        """Turn what is open into records, each message's tokens into one."""
        held, self._open = self._open, {}
        if self.dead:
            return
        for message_id, tokens in held.items():
            text = clean_text("".join(tokens.parts))
            block = (tokens.path, message_id, tokens.block, tokens.kind)
            call = (tokens.tool_call_id, tokens.tool_name)
            size = self._join_chars_max
            for start in range(0, len(text) or 1, size):
                piece = text[start : start + size]
                value = self._tokens.encode(self._n + 1, self._now_us(), block, piece, call)
                self._n += 1
                self._put(value, self._n, _TOKENS_HEADERS, urgent=False)
                call = ("", "")

    def landed(self, n: int, offset: int) -> None:
        """Note where a record lies, and wake who waits for its ack."""
        self._unacked_bytes -= self._unacked.popleft()
        if offset >= 0:
            if self.first_off is None:
                self.first_off = offset
            self.last_off = offset
        self._acked_n = max(self._acked_n, n)
        if not self._waiters:
            return
        waiting = self._waiters
        self._waiters = [waiter for waiter in waiting if waiter[0] > n]
        for upto, waiter in waiting:
            if upto <= n and not waiter.done():
                waiter.set_result(None)

    def refused(self, error: ProduceRefusedError) -> None:
        """End the attempt: what follows the gap must never be sent."""
        first = self._error is None
        self.kill(error)
        if first and self._on_refused is not None:
            self._on_refused(error)

    # -- G2: the one place where `n` is given out -------------------------------------------------

    def _say(
        self, event_type: type[Event], path: str, fields: dict[str, Any], *, urgent: bool
    ) -> None:
        if self._open:
            self.seal()
        _, value = self._encoded(event_type, self._n + 1, path, fields)
        if len(value) > self._record_bytes_max:
            raise RecordTooLargeError(
                f"{event_type.__name__}: {len(value)} bytes, {self._record_bytes_max} are allowed"
            )
        self._n += 1
        self._put(value, self._n, _TYPE_HEADERS[event_type], urgent=urgent)

    def _encoded(
        self, event_type: type[Event], n: int, path: str, fields: dict[str, Any]
    ) -> tuple[Event, bytes]:
        try:
            record = self._build(event_type, n, path, fields)
            return record, self._codec.encode(record)
        except UndecodableError:
            clean = {k: clean_text(v) if isinstance(v, str) else v for k, v in fields.items()}
            record = self._build(event_type, n, path, clean)
            return record, self._codec.encode(record)

    def _build(self, event_type: type[Event], n: int, path: str, fields: dict[str, Any]) -> Event:
        return event_type(
            event_id=event_id(self._turn_id, self._epoch, n),
            n=n,
            path=path,
            at=self._now_us(),
            **self._envelope,
            **fields,
        )

    def _put(self, value: bytes, n: int, headers: Headers, *, urgent: bool) -> None:
        if self.dead:
            return
        self._unacked.append(len(value))
        self._unacked_bytes += len(value)
        self._pump.put(self._to, self, n, self._key, value, headers=headers, urgent=urgent)

    def _check_room(self) -> None:
        events = max(self._n, self.tokens_said)  # not looked at for each token, but for each record
        if events > self._events_max:
            self._events_max = events + ENDING_EVENTS_MAX
            raise OutputOverrunError(
                f"the turn has emitted {events} events or tokens, more than"
                " TURNSTREAM_TURN_EVENTS_MAX allows"
            )
        if self._unacked_bytes > self._unacked_bytes_max:
            raise OutputOverrunError(
                f"{self._unacked_bytes} bytes of this turn wait for their acks, "
                f"{self._unacked_bytes_max} are allowed"
            )
