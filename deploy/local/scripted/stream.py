"""A scripted answer on its way: the wheel writes each token on time.

Token k is due at start + ttft + k / rate, whenever the one before
it was written, so that lateness never adds up.
"""

from __future__ import annotations

import asyncio
import heapq
import time
from collections import deque
from typing import TYPE_CHECKING, Protocol

import msgspec

from turnstream.deploy.local.scripted.bodies import STAMP

if TYPE_CHECKING:
    from turnstream.deploy.local.scripted.script import Script

FLAT_BURST = 16  # tokens a write where no rate is set
EARLY_S = 0.0005  # loops round timers to 1 ms: this much early is on time
_encode = msgspec.json.encode


class Sink(Protocol):
    """Where a stream writes; the connection."""

    full: bool
    """True while the peer reads too slowly: nothing may be written."""

    def write(self, data: bytes) -> None:
        """Write some bytes."""

    def cut(self) -> None:
        """Close the connection without an end of the answer."""

    def ended(self, *, finished: bool) -> None:
        """Take note that the stream has nothing more to write; not finished: it stalls."""


def http_chunk(data: bytes) -> bytes:
    """Return one chunk of a chunked HTTP body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


class Stream:
    """One answer on its way: what is written, and when the next token is due."""

    __slots__ = ("due", "interval", "is_gone", "next", "parked", "script", "sink", "writes")

    def __init__(
        self, sink: Sink, script: Script, start: float, parts: tuple[bytes, list[bytes], bytes]
    ) -> None:
        first, frames, last = parts
        self.sink = sink
        self.script = script
        stop = _stop_of(script)
        cut = frames if stop < 0 else frames[:stop]
        if script.split > 0:
            whole = first + b"".join(cut) + (last if stop < 0 else b"")
            cut = [whole[i : i + script.split] for i in range(0, len(whole), script.split)]
            first = last = b""
        self.writes = [http_chunk(frame) for frame in cut]
        if first:
            head = http_chunk(first)
            self.writes[:1] = [head + self.writes[0]] if self.writes else [head]
        if stop < 0:
            end = (http_chunk(last) if last else b"") + b"0\r\n\r\n"
            self.writes[-1:] = [self.writes[-1] + end]
        elif script.error_after >= 0:
            error = {"message": "scripted error", "type": "server_error", "code": 500}
            error_frame = http_chunk(b"data: " + _encode({"error": error}) + b"\n\n")
            self.writes.append(error_frame + http_chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")
        self.next = 0
        self.interval = 1 / script.rate if script.rate > 0 else 0.0
        self.due = start + script.ttft
        self.is_gone = False  # the peer left, or all is said
        self.parked = False  # off the wheel until the peer reads

    def step(self, now: float) -> bool:
        """Write what is due; return whether there is more."""
        upto = FLAT_BURST
        if self.interval:
            upto = 1 + int((now + EARLY_S - self.due) / self.interval)
        part = self.writes[self.next : self.next + upto]
        if part:
            self.next += len(part)
            self.due += len(part) * self.interval
            data = b"".join(part) if len(part) > 1 else part[0]
            if self.script.stamp and STAMP in data:
                data = _stamped(part)
            self.sink.write(data)
        if self.next < len(self.writes):
            return True
        self.is_gone = True
        if self.script.cut_after >= 0:
            self.sink.cut()
        self.sink.ended(finished=_stop_of(self.script) < 0 or self.script.error_after >= 0)
        return False


def _stop_of(script: Script) -> int:
    """Return after how many tokens the answer breaks, -1 if it does not."""
    return max(script.error_after, script.stall_after, script.cut_after)


def _stamped(part: list[bytes]) -> bytes:
    """Put the time of the write into each token; the HTTP chunk's length is made anew."""
    out = []
    for write in part:
        pieces = write.split(b"\r\n", 1)
        # a write may hold several chunks (the role before the first token, the end after the last)
        while len(pieces) > 1:
            size = int(pieces[0], 16)
            body, rest = pieces[1][:size], pieces[1][size + 2 :]
            out.append(
                http_chunk(body.replace(STAMP, b"%d " % time.monotonic_ns()))
                if size
                else b"0\r\n\r\n"
            )
            pieces = rest.split(b"\r\n", 1) if size and rest else []
    return b"".join(out)


class Wheel:
    """Writes all streams on time with one timer."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._heap: list[tuple[float, int, Stream]] = []
        self._flat: deque[Stream] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._flat_soon = False
        self._serial = 0

    def add(self, stream: Stream) -> None:
        """Write the stream's tokens from now on; also one that had to wait for its reader."""
        stream.parked = False
        if stream.interval or stream.due > time.monotonic():
            self._serial += 1
            heapq.heappush(self._heap, (stream.due, self._serial, stream))
            self._arm()
        else:
            self._flat.append(stream)
            self._soon()

    def _arm(self) -> None:
        at = self._heap[0][0]
        if self._timer is not None:
            if self._timer_at <= at:
                return
            self._timer.cancel()
        self._timer_at = at
        self._timer = self._loop.call_later(max(0.0, at - time.monotonic()), self._turn)

    def _turn(self) -> None:
        self._timer = None
        heap = self._heap
        limit = time.monotonic() + EARLY_S
        while heap and heap[0][0] <= limit:
            stream = heap[0][2]
            if not self._step(stream, limit - EARLY_S):
                heapq.heappop(heap)
            elif stream.interval:
                self._serial += 1
                heapq.heapreplace(heap, (stream.due, self._serial, stream))
            else:
                heapq.heappop(heap)
                self._flat.append(stream)
                self._soon()
        if heap:
            self._arm()

    def _step(self, stream: Stream, now: float) -> bool:
        if stream.is_gone:
            return False
        if stream.sink.full:
            stream.parked = True
            return False
        return stream.step(now)

    def _soon(self) -> None:
        if not self._flat_soon:
            self._flat_soon = True
            self._loop.call_soon(self._flat_turn)

    def _flat_turn(self) -> None:
        """Let each stream without a rate write once, then let the loop do other things."""
        self._flat_soon = False
        now = time.monotonic()
        for _ in range(len(self._flat)):
            stream = self._flat.popleft()
            if self._step(stream, now):
                self._flat.append(stream)
        if self._flat:
            self._soon()

    def close(self) -> None:
        """Write nothing more."""
        self._heap.clear()
        self._flat.clear()
        if self._timer is not None:
            self._timer.cancel()
