"""The twin of a turn's emitter."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from turnstream.schemas.ids import event_id
from turnstream.schemas.records.events import AttemptStarted, TokensEmitted

if TYPE_CHECKING:
    from turnstream.schemas.records.events import Event


class MemoryEmitter:
    """A turn's emitter that keeps its events: a `graph.ports.emitter.Emitter`, and a `LogPosition`.

    Every call is one event with one `n`; nothing is joined. With `auto` everything counts as
    acknowledged at once, else up to what `ack` was told. `fail` makes every wait raise.
    """

    def __init__(
        self,
        *,
        tenant: str = "default",
        thread_id: str = "t",
        turn_id: str = "00000000-0000-7000-8000-000000000000",
        epoch: int = 1,
        high_n: int = 0,
        auto: bool = True,
    ) -> None:
        self._envelope: dict[str, Any] = {
            "tenant": tenant,
            "thread_id": thread_id,
            "turn_id": turn_id,
            "epoch": epoch,
        }
        self.n = high_n
        self.first_off: int | None = None
        self.closed = False
        self.auto = auto
        self.events: list[Event] = []
        self._acked = high_n
        self._error: Exception | None = None
        self._waiting: list[tuple[int, asyncio.Future[None]]] = []

    @classmethod
    def started(cls, **envelope: Any) -> MemoryEmitter:
        """Return one that has said its attempt's start (n 0), so that its events fold."""
        emitter = cls(high_n=-1, **envelope)
        emitter.emit(AttemptStarted, path="", reason="first", base=0, keep_n=0, high_n=0)
        return emitter

    def emit(self, event_type: type[Event], *, path: str, **fields: Any) -> int:
        """Keep one event and return its `n`; dropped once closed (0)."""
        if self.closed:
            return 0
        self.n += 1
        self.events.append(
            event_type(
                event_id=event_id(self._envelope["turn_id"], self._envelope["epoch"], self.n),
                n=self.n,
                path=path,
                **self._envelope,
                **fields,
            )
        )
        return self.n

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
        """Keep some tokens as one event."""
        self.emit(
            TokensEmitted,
            path=path,
            message_id=message_id,
            block=block,
            kind=kind,
            text=text,
            tool_call_id=tool_call_id,
            tool_name=tool_name,
        )

    def close(self) -> None:
        """Drop what comes."""
        self.closed = True

    @property
    def waited_for(self) -> list[int]:
        """Positions whose acknowledgement is awaited."""
        return [n for n, future in self._waiting if not future.done()]

    def ack(self, n: int) -> None:
        """Acknowledge everything up to `n`."""
        self._acked = max(self._acked, n)
        for waited, future in self._waiting:
            if waited <= self._acked and not future.done():
                future.set_result(None)

    def fail(self, error: Exception) -> None:
        """Let every wait, now and later, raise."""
        self._error = error
        for _, future in self._waiting:
            if not future.done():
                future.set_exception(error)

    async def acked(self, n: int) -> None:
        """Wait until everything up to `n` is acknowledged."""
        if self._error is not None:
            raise self._error
        if self.auto or n <= self._acked:
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((n, future))
        await future
