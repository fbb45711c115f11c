"""The events of one attempt as bytes; what all of them have in common is given once. Pure."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from turnstream.connectors.avro_tokens import TokenEncoder
from turnstream.schemas.errors import UndecodableError
from turnstream.schemas.ids import event_id, thread_key
from turnstream.schemas.records.events import EVENTS, Event
from turnstream.schemas.text import clean_text

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import msgspec

    from turnstream.connectors.avro import Codec
    from turnstream.connectors.kafka.write.outgoing import Headers

TYPE_HEADERS: dict[type[msgspec.Struct], Headers] = {
    event_type: [("type", event_type.__name__.encode())] for event_type in EVENTS
}
"""The headers of a record, by its event's type."""


class TurnRecords:
    """Encodes one attempt's events. `now_us` is their clock, in microseconds since 1970.

    `key` is the records' key. `tokens` encodes `TokensEmitted`, which nearly every record is.
    """

    def __init__(
        self,
        codec: Codec,
        *,
        tenant: str,
        thread_id: str,
        turn_id: str,
        epoch: int,
        actor: str = "",
        traceparent: str = "",
        now_us: Callable[[], int] = lambda: time.time_ns() // 1000,
    ) -> None:
        self.key = thread_key(tenant, thread_id).encode()
        self.traceparent = traceparent
        self.now_us = now_us
        self._codec = codec
        self._turn_id = turn_id
        self._epoch = epoch
        self._envelope: dict[str, object] = {
            "tenant": tenant,
            "thread_id": thread_id,
            "turn_id": turn_id,
            "epoch": epoch,
            "actor": actor,
            "traceparent": traceparent,
        }
        self.tokens = TokenEncoder(
            codec,
            tenant=tenant,
            thread_id=thread_id,
            turn_id=turn_id,
            epoch=epoch,
            actor=actor,
            traceparent=traceparent,
        )

    def encode(
        self, event_type: type[Event], n: int, path: str, fields: Mapping[str, object]
    ) -> bytes:
        """Return the event at position `n`; lone surrogates and NUL in its texts become U+FFFD."""
        try:
            return self._codec.encode(self._build(event_type, n, path, fields))
        except UndecodableError:
            clean = {k: clean_text(v) if isinstance(v, str) else v for k, v in fields.items()}
            return self._codec.encode(self._build(event_type, n, path, clean))

    def encode_thread_event(self, event: Event) -> bytes:
        """Return an event of the thread, which has an envelope of its own."""
        return self._codec.encode(event)

    def _build(
        self, event_type: type[Event], n: int, path: str, fields: Mapping[str, object]
    ) -> Event:
        build: Callable[..., Event] = event_type
        return build(
            event_id=event_id(self._turn_id, self._epoch, n),
            n=n,
            path=path,
            at=self.now_us(),
            **self._envelope,
            **fields,
        )
