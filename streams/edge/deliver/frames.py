"""Protocol events as bytes, encoded once and shared by every socket that takes them.

An event's JSON, its WebSocket frame and its SSE chunk are made when the first reader needs them,
and kept on the event. So a thousand readers cost a thousand writes and one encoding. Pure.
"""

from __future__ import annotations

import msgspec

from turnstream.schemas.text import clean_text

VALUES = "values"
OPENED = "stream.opened"
"""A method that the protocol does not have; it carries the `seq` where a stream begins."""
# beginnings of the data of root lifecycle events after which clients stop
_ENDS = (b'{"event":"completed"', b'{"event":"failed"', b'{"event":"interrupted"')
_encode = msgspec.json.Encoder().encode


def json_bytes(value: object) -> bytes:
    """Return a value as JSON."""
    return _encode(value)


def embed(text: str) -> bytes:
    """Return JSON text on one line, to be put into other JSON; any other text as a JSON string."""
    text = clean_text(text)
    raw = text.encode()
    try:
        msgspec.json.decode(raw, type=msgspec.Raw)
        # a line break between tokens would end an SSE field
        return msgspec.json.format(raw, indent=-1) if b"\n" in raw or b"\r" in raw else raw
    except msgspec.DecodeError:
        return _encode(text)


def websocket_frame(payload: bytes) -> bytes:
    """Return a final, unmasked text frame (RFC 6455 §5.2); servers do not mask."""
    size = len(payload)
    if size < 126:  # noqa: PLR2004  lengths below 126 stand in the second byte
        return b"\x81" + bytes((size,)) + payload
    if size < 1 << 16:
        return b"\x81\x7e" + size.to_bytes(2, "big") + payload
    return b"\x81\x7f" + size.to_bytes(8, "big") + payload


def sse_message(payload: bytes, seq: int | None = None) -> bytes:
    """Return one server-sent event; `seq` becomes its id."""
    if seq is None:
        return b"data: " + payload + b"\n\n"
    return b"id: %d\ndata: %b\n\n" % (seq, payload)


def http_chunk(payload: bytes) -> bytes:
    """Return one chunk of a chunked body (RFC 9112 §7.1)."""
    return b"%x\r\n%b\r\n" % (len(payload), payload)


class ProtocolEvent:
    """One event of the Agent Streaming Protocol.

    `channel` is the name in subscriptions (`custom:<name>` for a named custom event). `data` is the
    JSON of `params.data`; None marks a `values` snapshot, whose state is read when a reader takes
    it. `event_id` and `method` are put into the JSON unescaped, so they never hold user input.
    """

    __slots__ = (
        "_body",
        "_chunk",
        "_frame",
        "at_ms",
        "channel",
        "data",
        "event_id",
        "method",
        "namespace",
        "seq",
    )

    def __init__(  # noqa: PLR0917  made for every event
        self,
        seq: int,
        event_id: str,
        method: str,
        channel: str,
        namespace: tuple[str, ...],
        at_ms: int,
        data: bytes | None,
    ) -> None:
        self.seq = seq
        self.event_id = event_id
        self.method = method
        self.channel = channel
        self.namespace = namespace
        self.at_ms = at_ms
        self.data = data
        self._body: bytes | None = None
        self._frame: bytes | None = None
        self._chunk: bytes | None = None

    @property
    def needs_state(self) -> bool:
        """Return whether this is a snapshot without its state."""
        return self.data is None

    @property
    def ends(self) -> bool:
        """Return whether clients take this for the end of a run: a root terminal."""
        return (
            self.method == "lifecycle"
            and not self.namespace
            and self.data is not None
            and self.data.startswith(_ENDS)
        )

    def with_state(self, values: bytes) -> ProtocolEvent:
        """Return the snapshot with the state's JSON in it."""
        return ProtocolEvent(
            self.seq, self.event_id, self.method, self.channel, self.namespace, self.at_ms, values
        )

    @property
    def body(self) -> bytes:
        """Return the event's JSON."""
        if self._body is None:
            self._body = (
                b'{"type":"event","event_id":"%b","seq":%d,"method":"%b",'
                b'"params":{"namespace":%b,"timestamp":%d,"data":%b}}'
                % (
                    self.event_id.encode(),
                    self.seq,
                    self.method.encode(),
                    _encode(self.namespace) if self.namespace else b"[]",
                    self.at_ms,
                    self.data or b"null",
                )
            )
        return self._body

    @property
    def frame(self) -> bytes:
        """Return the event as a WebSocket frame."""
        frame = self._frame
        if frame is None:
            frame = self._frame = websocket_frame(self.body)
        return frame

    @property
    def chunk(self) -> bytes:
        """Return the event as an SSE message in one HTTP chunk."""
        if self._chunk is None:
            self._chunk = http_chunk(sse_message(self.body, self.seq))
        return self._chunk
