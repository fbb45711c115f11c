"""`TokensEmitted` to bytes and back by hand: the one record that is written for nearly every token.

What does not change within a turn, or within a block of a message, is encoded once and kept. On the
way back, bytes that are the same as in an earlier record are compared and not decoded. The codec
over fastavro takes more than 3 times as long to write a record and more than 5 times as long to
read one (rows `tokens to Avro` and `tokens from Avro` of `python -m tests.bench --only parts`).
Tests hold both to the codec.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from turnstream.schemas.ids import event_id
from turnstream.schemas.records.events import TokensEmitted

if TYPE_CHECKING:
    import msgspec

    from turnstream.connectors.avro import Codec

BLOCKS_KEPT_MAX = 64
TURNS_KEPT_MAX = 4096

_SMALL = tuple(bytes((value << 1,)) for value in range(64))


def varint(value: int) -> bytes:
    """Return an Avro `int` or `long` of 0 or more: zig-zag, 7 bits a byte, low ones first."""
    if value < 64:  # noqa: PLR2004  one byte holds that much
        return _SMALL[value]
    value <<= 1
    out = bytearray()
    while value > 0x7F:  # noqa: PLR2004  the 7 bits of a byte
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def string(text: str) -> bytes:
    """Return an Avro `string`; raises `UnicodeEncodeError` for lone surrogates."""
    data = text.encode()
    return varint(len(data)) + data


class TokenEncoder:
    """Encodes the tokens of one attempt, whose envelope is given once."""

    def __init__(
        self,
        codec: Codec,
        *,
        tenant: str,
        thread_id: str,
        turn_id: str,
        epoch: int,
        actor: str,
        traceparent: str,
    ) -> None:
        self._frame = codec.frame(TokensEmitted)
        self._event_id = event_id(turn_id, epoch, 0)[:-1]
        self._turn = string(tenant) + string(thread_id) + string(turn_id) + varint(epoch)
        self._trace = string(actor) + string(traceparent)
        self._blocks: dict[tuple[str, str, int, str], tuple[bytes, bytes]] = {}

    def encode(
        self,
        n: int,
        at: int,
        block: tuple[str, str, int, str],
        text: str,
        call: tuple[str, str] = ("", ""),
    ) -> bytes:
        """Return the record; `block` is path, message id, index, kind; `call` a tool call."""
        tool_call_id, tool_name = call
        kept = self._blocks.get(block)
        if kept is None:
            if len(self._blocks) >= BLOCKS_KEPT_MAX:
                self._blocks.clear()
            path, message_id, index, kind = block
            kept = string(path), self._trace + string(message_id) + varint(index) + string(kind)
            self._blocks[block] = kept
        return b"".join(
            (
                self._frame,
                string(f"{self._event_id}{n}"),
                self._turn,
                varint(n),
                kept[0],
                varint(at),
                kept[1],
                string(text),
                string(tool_call_id) if tool_call_id else b"\0",
                string(tool_name) if tool_name else b"\0",
            )
        )


# an Avro `long` of 8 bytes, read as one little-endian number: which bits say that a byte follows
_MORE = 0x8080_8080_8080_8080
_MORE_OF_8 = 0x0080_8080_8080_8080
_AT_BYTES = 8
# where the id of the turn stands, with which an event id begins: behind the framing and a length
_ID_CHARS = 36


def _moment(data: bytes, at: int) -> int:
    """Return a `long` of 0 or more that has exactly 8 bytes, as microseconds have; else -1."""
    packed = int.from_bytes(data[at : at + _AT_BYTES], "little")
    if packed & _MORE != _MORE_OF_8 or packed & 1:
        return -1
    # seven bits a byte, pushed together two, four and eight bytes at a time
    packed = packed & 0x007F_007F_007F_007F | (packed & 0x7F00_7F00_7F00_7F00) >> 1
    packed = packed & 0x0000_3FFF_0000_3FFF | (packed & 0x3FFF_0000_3FFF_0000) >> 2
    return (packed & 0x0FFF_FFFF | (packed >> 32) << 28) >> 1


class _Known:
    """What the records of a block have in common: as bytes, and as they read."""

    __slots__ = (
        "actor",
        "block",
        "epoch",
        "kind",
        "message_id",
        "path",
        "said",
        "tenant",
        "thread_id",
        "traceparent",
        "turn",
        "turn_id",
        "where",
    )

    kind: Literal["text", "reasoning", "tool_args"]

    def __init__(self, record: TokensEmitted) -> None:
        self.tenant, self.thread_id = record.tenant, record.thread_id
        self.turn_id, self.epoch, self.path = record.turn_id, record.epoch, record.path
        self.actor, self.traceparent = record.actor, record.traceparent
        self.message_id, self.block, self.kind = record.message_id, record.block, record.kind
        self.turn = b"".join(
            (
                string(self.tenant),
                string(self.thread_id),
                string(self.turn_id),
                varint(self.epoch),
            )
        )
        self.where = string(self.path)
        self.said = b"".join(
            (
                string(self.actor),
                string(self.traceparent),
                string(self.message_id),
                varint(self.block),
                string(self.kind),
            )
        )


class TokenDecoder:
    """Decodes what `codec` decodes, and the tokens of a block after its first in a third of it.

    Keeps of each of `TURNS_KEPT_MAX` turns what the last block's records have in common. A record
    that differs from it anywhere goes the general way.
    """

    def __init__(self, codec: Codec) -> None:
        self._codec = codec
        self._frame = codec.frame(TokensEmitted)
        self._id_at = len(self._frame) + 1
        self._kept: dict[bytes, _Known] = {}

    def decode(self, data: bytes) -> msgspec.Struct:
        """Return the record; as `Codec.decode`."""
        known = self._kept.get(data[self._id_at : self._id_at + _ID_CHARS])
        if known is not None and data.startswith(self._frame):
            record = self._next(data, known)
            if record is not None:
                return record
        general = self._codec.decode(data)
        if type(general) is TokensEmitted and data.startswith(self._frame):
            self._keep(data, general)
        return general

    def _keep(self, data: bytes, record: TokensEmitted) -> None:
        if record.epoch < 0 or record.block < 0:
            return
        if len(self._kept) >= TURNS_KEPT_MAX:
            self._kept.clear()
        self._kept[data[self._id_at : self._id_at + _ID_CHARS]] = _Known(record)

    def _next(self, data: bytes, known: _Known) -> TokensEmitted | None:
        """Return the record, None where it is not quite like the known one."""
        at = self._id_at
        size = data[at - 1]
        if size & 0x81:  # an id of 64 bytes or more
            return None
        turn_at = at + (size >> 1)
        if not data.startswith(known.turn, turn_at):
            return None
        name = data[at:turn_at]
        at = turn_at + len(known.turn)
        try:
            n = data[at]
            if n & 0x80:
                at += 1
                n = n & 0x7F | data[at] << 7
                if n & 0x4000:  # a third byte: n above 8191
                    at += 1
                    n = n & 0x3FFF | data[at] << 14
            at += 1
            moment_at = at + len(known.where)
            said_at = moment_at + _AT_BYTES
            text_at = said_at + len(known.said)
            moment = _moment(data, moment_at)
            size = data[text_at]
            text_at += 1
            if size & 0x80:
                size = size & 0x7F | data[text_at] << 7
                text_at += 1
            end = text_at + (size >> 1)
            if (
                n & 0x20_0001
                or size & 0x4001
                or moment < 0
                or not data.startswith(known.where, at)
                or not data.startswith(known.said, said_at)
                or data[end:] != b"\0\0"  # no tool call, and nothing after it
            ):
                return None
            text = data[text_at:end].decode()
            event = name.decode()
        except (IndexError, UnicodeDecodeError):
            return None
        return TokensEmitted(
            event_id=event,
            tenant=known.tenant,
            thread_id=known.thread_id,
            turn_id=known.turn_id,
            epoch=known.epoch,
            n=n >> 1,
            path=known.path,
            at=moment,
            actor=known.actor,
            traceparent=known.traceparent,
            message_id=known.message_id,
            block=known.block,
            kind=known.kind,
            text=text,
        )
