"""Events of the log as lines: which of them are wanted, as JSON and as people read them. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Protocol

import msgspec

from turnstream.schemas.errors import InvalidRequestError, UndecodableError
from turnstream.schemas.records.events import EVENTS
from turnstream.schemas.text import visible_text

if TYPE_CHECKING:
    from turnstream.connectors.kafka.read.scan import RawRecord

TYPES = {event.__name__.lower(): event.__name__ for event in EVENTS}
TEXT_CHARS_MAX = 200
_ENVELOPE = frozenset(("event_id", "tenant", "thread_id", "turn_id", "epoch", "n", "path", "at"))
_UNIT_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


class Decoder(Protocol):
    """What turns stored bytes into records; `connectors.avro.Codec` is one."""

    def decode(self, data: bytes) -> msgspec.Struct:
        """Return the record; raises `UndecodableError`."""
        ...


def parse_types(text: str) -> frozenset[str]:
    """Return the types that `a,b` names, in any case; raises `InvalidRequestError`."""
    asked = [name for part in text.split(",") if (name := part.strip())]
    unknown = [name for name in asked if name.lower() not in TYPES]
    if unknown or not asked:
        raise InvalidRequestError(
            f"no such type: {', '.join(unknown) or repr(text)} (there are: "
            f"{', '.join(TYPES.values())})"
        )
    return frozenset(TYPES[name.lower()] for name in asked)


def parse_since(text: str, now: datetime) -> datetime:
    """Return the time that `10m`, `start` or an ISO time (UTC unless it says else) means.

    Raises `InvalidRequestError`.
    """
    if text == "start":
        return datetime.fromtimestamp(0, UTC)
    try:
        if ago := re.fullmatch(r"(\d{1,6})([smhd])", text):
            seconds = int(ago[1]) * _UNIT_SECONDS[ago[2]]
            return datetime.fromtimestamp(max(0.0, now.timestamp() - seconds), UTC)
        at = datetime.fromisoformat(text)
        at = at if at.tzinfo else at.replace(tzinfo=UTC)
        return datetime.fromtimestamp(max(0.0, at.timestamp()), UTC)
    except (ValueError, OverflowError):
        raise InvalidRequestError(
            f"{text[:60]!r} is no time: 30s, 10m, 2h, 1d, start, or as 2026-12-01T05:00"
        ) from None


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which events; an empty field wants all. `key` is `tenant/thread_id` or `tenant/`."""

    key: str = ""
    turn_id: str = ""
    types: frozenset[str] = frozenset()

    def line(self, raw: RawRecord, decoder: Decoder, *, as_json: bool) -> str:
        """Return the line of a record, "" where it is not wanted.

        A record that cannot be read has a line of its own, unless types or a turn are asked for.
        """
        if not self._may_be(raw):
            return ""
        try:
            record = decoder.decode(raw.value)
        except UndecodableError as error:
            if self.types or self.turn_id:
                return ""
            key = raw.key.decode(errors="replace")
            fields = {"key": key, "bytes": len(raw.value), "error": str(error)}
            return _line(raw, "", fields, as_json=as_json)
        name = type(record).__name__
        if self.types and name not in self.types:
            return ""
        if self.turn_id and getattr(record, "turn_id", "") != self.turn_id:
            return ""
        return _line(raw, name, msgspec.to_builtins(record), as_json=as_json)

    def _may_be(self, raw: RawRecord) -> bool:
        """Return whether the record may be wanted, before it is decoded."""
        key = self.key.encode()
        of_key = raw.key.startswith(key) if key.endswith(b"/") or not key else raw.key == key
        return of_key and self.turn_id.encode() in raw.value


def _line(raw: RawRecord, name: str, fields: dict[str, object], *, as_json: bool) -> str:
    if as_json:
        place = {"partition": raw.partition, "offset": raw.offset, "at_ms": raw.at_ms}
        return msgspec.json.encode({**place, "type": name, **fields}).decode()
    at = datetime.fromtimestamp(raw.at_ms / 1000, UTC).strftime("%H:%M:%S.%f")[:-3]
    key = f"{fields['tenant']}/{fields['thread_id']}" if "thread_id" in fields else ""
    words = [at, f"{raw.partition}-{raw.offset}", key, name or "unreadable"]
    for field, value in fields.items():
        if field not in _ENVELOPE and value not in ("", [], None):
            text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
            words.append(f"{field}={text[:TEXT_CHARS_MAX]}")
    return visible_text(" ".join(filter(None, words)))
