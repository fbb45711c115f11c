"""Takes what one attempt's graph emits, joins tokens, and keeps the turn within its limits.

`TurnEmitter` is what the graph emits into (`graph.ports.emitter.Emitter`), what the saver asks for
its position, and what seals tokens when the pump is about to produce. Nothing in it awaits but
`acked`. It belongs to one event loop: code in threads emits through that loop.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

from turnstream.connectors.kafka.write.outgoing import RECORD_OVERHEAD
from turnstream.schemas.errors import OutputOverrunError, RecordTooLargeError
from turnstream.schemas.records.events import (
    AttemptStarted,
    Event,
    InputRequested,
    TaskRetried,
    TokensEmitted,
)
from turnstream.schemas.text import clean_text
from turnstream.schemas.topics import EVENT_BYTES_MAX
from turnstream.streams.worker.turn_log import TurnLog
from turnstream.streams.worker.turn_records import TYPE_HEADERS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from aiokafka import TopicPartition

    from turnstream.connectors.kafka.write.pump import Pump
    from turnstream.schemas.errors import ProduceRefusedError
    from turnstream.schemas.records.events import InputResolved
    from turnstream.streams.worker.turn_records import TurnRecords

JOIN_CHARS_MAX = 64 << 10
"""Characters of one `TokensEmitted`: at 4 bytes each still a fraction of the topic's limit."""

UNACKED_BYTES_MAX = 16 << 20
"""Bytes of one turn that may wait for their acks. Above it, the turn fails: `output_overrun`."""

ENDING_EVENTS_MAX = 1000
"""Events that a turn may still emit after it reached its limit: tasks and tool calls that stop."""

_URGENT = (AttemptStarted, InputRequested)
_TOKENS_HEADERS = TYPE_HEADERS[TokensEmitted]


class _Tokens:
    """Tokens of one message since the pump's last round."""

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
    """Emits the events of one attempt, in one order.

    `high_n` is the claim's; the attempt's first event gets it. `on_refused` is called once when the
    broker refused a record: nothing more is sent then, and the attempt is over. `events_max`:
    events of the turn, and tokens of the attempt, each; above it an `OutputOverrunError` is raised.
    """

    def __init__(
        self,
        pump: Pump,
        to: TopicPartition,
        records: TurnRecords,
        *,
        high_n: int = 0,
        record_bytes_max: int = EVENT_BYTES_MAX,
        unacked_bytes_max: int = UNACKED_BYTES_MAX,
        events_max: float = math.inf,
        on_refused: Callable[[ProduceRefusedError], None] | None = None,
    ) -> None:
        self.log = TurnLog(
            pump, to, records.key, high_n=high_n, seal=self.seal, on_refused=self._refused
        )
        self._pump = pump
        self._to = to
        self._records = records
        self._encode_tokens = records.tokens.encode
        self._now_us = records.now_us
        self._record_bytes_max = record_bytes_max - RECORD_OVERHEAD - len(records.key)
        self._unacked_bytes_max = unacked_bytes_max
        self._events_max = events_max
        # a character takes at most 4 bytes, and the envelope has its share
        self._join_chars_max = min(JOIN_CHARS_MAX, self._record_bytes_max // 8)
        self._on_refused = on_refused
        self._open: dict[str, _Tokens] = {}
        self.closed = False
        self.tokens_said = 0
        self.retries = 0
        self.first_token_s: float | None = None
        self._began_at = time.monotonic()

    # -- what the graph calls ------------------------------------------------------------------

    def emit(self, event_type: type[Event], *, path: str, **fields: object) -> int:
        """Emit one event and return its `n`; do nothing and return 0 once the emitter is closed.

        Raises `RecordTooLargeError` for one larger than the topic takes, before its `n` is given
        out, and `OutputOverrunError`.
        """
        if self.closed:
            return 0
        self._check_room()
        self._say(event_type, path, fields, urgent=event_type in _URGENT)
        self.retries += event_type is TaskRetried
        return self.log.n

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
        """Emit a token; tokens of one message become one record in each of the pump's rounds."""
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
        first = self.first_token_s is None
        if first:
            self.first_token_s = time.monotonic() - self._began_at
        self._pump.mark(self._to, self.log, urgent=first)

    def close(self) -> None:
        """Take nothing more from the graph; seal what it has emitted."""
        if not self.closed:
            self.seal()
            self.closed = True

    # -- what the attempt calls ----------------------------------------------------------------

    def start(self, *, resolved: tuple[InputResolved, ...] = (), **fields: object) -> None:
        """Emit the fence. It has the `n` of the claim, and thread events go before it.

        A commit awaits the fence, so none is stored while one of those events is missing.
        """
        log = self.log
        for event in resolved:
            value = self._records.encode_thread_event(event)
            log.append_thread_event(value, TYPE_HEADERS[type(event)])
        value = self._records.encode(AttemptStarted, log.n + 1, "", fields)
        headers = TYPE_HEADERS[AttemptStarted]
        if self._records.traceparent:
            headers = [*headers, ("traceparent", self._records.traceparent.encode())]
        log.append(value, headers, urgent=True)

    def conclude(self, event_type: type[Event], **fields: object) -> int:
        """Close the emitter, emit the terminal and return its `n`.

        A terminal that is too large for the topic goes without its text. Its digest stays, and the
        tokens before it carry the text.
        """
        self.close()
        try:
            self._say(event_type, "", fields, urgent=True)
        except RecordTooLargeError:
            self._say(event_type, "", {**fields, "text": ""}, urgent=True)
        return self.log.n

    def kill(self, error: Exception | None = None) -> None:
        """End the attempt at once: send nothing more, and let `acked` raise."""
        self.closed = True
        self._open.clear()
        self.log.kill(error)

    def let_go(self) -> None:
        """Drop the references to the attempt: it is over."""
        self._on_refused = None
        self.log.let_go()

    # -- what the saver calls ------------------------------------------------------------------

    @property
    def n(self) -> int:
        """The last `n` given out, after sealing what was open."""
        if self._open:
            self.seal()
        return self.log.n

    @property
    def first_off(self) -> int | None:
        """The offset of the attempt's first record, once the log has told it."""
        return self.log.first_off

    async def acked(self, n: int) -> None:
        """Wait until everything up to `n` is in the log; raises as `TurnLog.acked` does."""
        await self.log.acked(n)

    # -- what the pump calls, see `connectors.kafka.write.outgoing.Sender` -----------------------

    def seal(self) -> None:
        """Make records of what is open: one of each message's tokens."""
        held, self._open = self._open, {}
        log = self.log
        for message_id, tokens in held.items():
            text = clean_text("".join(tokens.parts))
            block = (tokens.path, message_id, tokens.block, tokens.kind)
            call = (tokens.tool_call_id, tokens.tool_name)
            size = self._join_chars_max
            for start in range(0, len(text) or 1, size):
                piece = text[start : start + size]
                value = self._encode_tokens(log.n + 1, self._now_us(), block, piece, call)
                log.append(value, _TOKENS_HEADERS, urgent=False)
                call = ("", "")

    # -- the rest ------------------------------------------------------------------------------

    def _say(
        self, event_type: type[Event], path: str, fields: Mapping[str, object], *, urgent: bool
    ) -> None:
        if self._open:
            self.seal()
        value = self._records.encode(event_type, self.log.n + 1, path, fields)
        if len(value) > self._record_bytes_max:
            raise RecordTooLargeError(
                f"{event_type.__name__}: {len(value)} bytes, {self._record_bytes_max} are allowed"
            )
        self.log.append(value, TYPE_HEADERS[event_type], urgent=urgent)

    def _refused(self, error: ProduceRefusedError) -> None:
        self.kill(error)
        if self._on_refused is not None:
            self._on_refused(error)

    def _check_room(self) -> None:
        # called once a record, not once a token
        events = max(self.log.n, self.tokens_said)
        if events > self._events_max:
            self._events_max = events + ENDING_EVENTS_MAX
            raise OutputOverrunError(
                f"the turn has emitted {events} events or tokens, more than"
                " TURNSTREAM_TURN_EVENTS_MAX allows"
            )
        if self.log.unacked_bytes > self._unacked_bytes_max:
            raise OutputOverrunError(
                f"{self.log.unacked_bytes} bytes of this turn wait for their acks, "
                f"{self._unacked_bytes_max} are allowed"
            )
