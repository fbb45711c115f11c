"""Twins for graphs without a log: `RecordingEmitter` keeps what a turn says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from turnstream.schemas.events import AttemptStarted, TokensEmitted
from turnstream.schemas.ids import event_id

if TYPE_CHECKING:
    from turnstream.schemas.events import Event


class RecordingEmitter:
    """Keeps events in `events`, numbered as one attempt of a turn; implements `ports.Emitter`.

    The first record is the attempt's start, so that the list folds. Tokens are not joined.
    """

    def __init__(
        self,
        *,
        turn_id: str = "00000000-0000-7000-8000-000000000000",
        tenant: str = "default",
        thread_id: str = "thread",
        epoch: int = 1,
    ) -> None:
        self.events: list[Event] = []
        self.closed = False
        self._turn_id = turn_id
        self._tenant = tenant
        self._thread_id = thread_id
        self._epoch = epoch
        self._n = -1
        self.emit(AttemptStarted, path="", reason="first", base=0, keep_n=0, high_n=0)

    def emit(self, event_type: type[Event], *, path: str, **fields: Any) -> None:
        """Keep one event."""
        if self.closed:
            return
        self._n += 1
        self.events.append(
            event_type(
                event_id=event_id(self._turn_id, self._epoch, self._n),
                tenant=self._tenant,
                thread_id=self._thread_id,
                turn_id=self._turn_id,
                epoch=self._epoch,
                n=self._n,
                path=path,
                **fields,
            )
        )

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
        """Keep one `TokensEmitted`."""
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
