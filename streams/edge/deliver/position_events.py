"""Protocol events that no record of the log is: where a stream stands."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from turnstream.streams.edge.deliver.frames import OPENED, VALUES, ProtocolEvent, json_bytes

if TYPE_CHECKING:
    from turnstream.streams.edge.follow.cursor import Cursor


def opened_event(begins: Cursor) -> ProtocolEvent:
    """Return the event that gives a client without a cursor one: all its events come after it.

    The stock SDKs take the `seq` of any event and skip methods that they do not know. Without this
    event, a client that is cut off before its first event would come back without a cursor, and
    miss what came meanwhile.
    """
    return ProtocolEvent(begins.seq, f"opened-{begins.seq}", OPENED, OPENED, (), _now_ms(), b"{}")


def reset_events(first: int, values: bytes, *, alive: bool) -> list[ProtocolEvent]:
    """Return the events that void all earlier ones, from the `seq` `first` on.

    They are the thread's values (JSON text), and the end of the run if no turn is `alive`.
    """
    event_id, at_ms = f"reset-{first}", _now_ms()
    events = [ProtocolEvent(first, event_id, VALUES, VALUES, (), at_ms, values)]
    if not alive:
        over, channel = json_bytes({"event": "completed"}), "lifecycle"
        events.append(ProtocolEvent(first + 1, f"{event_id}:1", channel, channel, (), at_ms, over))
    return events


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
