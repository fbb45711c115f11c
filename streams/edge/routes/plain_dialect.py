"""The frames of `WS /ws` (see `socket.py`): read, carried out, answered."""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
from pydantic import ValidationError

from turnstream.schemas.errors import InvalidRequestError
from turnstream.schemas.limits import INT_MAX, INT_MIN, check_depth
from turnstream.schemas.records.commands import OnBusy
from turnstream.schemas.text import clean_text
from turnstream.streams.edge.follow.cursor import Cursor
from turnstream.streams.edge.follow.patience import patiently
from turnstream.streams.edge.follow.surface import follow
from turnstream.streams.edge.routes.bodies import ChatBody, CommandBody, RunBody, check_json
from turnstream.streams.edge.routes.chat import said
from turnstream.streams.edge.routes.starting import make_if_needed, start
from turnstream.streams.edge.server.context import DEFAULT_GRAPH
from turnstream.streams.edge.surfaces.plain import SimpleProjection

if TYPE_CHECKING:
    from collections.abc import Mapping

    from turnstream.schemas.errors import TurnstreamError
    from turnstream.streams.edge.ask.submit import Submitted
    from turnstream.streams.edge.deliver.client_socket import ClientSocket
    from turnstream.streams.edge.routes.deps import Rest

NAME_CHARS_MAX = 500


class Frame(msgspec.Struct):
    """A client's frame; each type has its own fields."""

    type: Literal["chat", "resume", "cancel", "subscribe", "unsubscribe", "ping"]
    id: Annotated[int, msgspec.Meta(ge=INT_MIN, le=INT_MAX)] | str | None = None
    thread_id: str = ""
    run_id: str = ""
    text: str = ""
    graph: str = ""
    idempotency_key: str = ""
    on_busy: OnBusy = "enqueue"
    expires_at: int | None = None
    answers: dict[str, Any] = msgspec.field(default_factory=dict)
    since: int | None = None
    rollback: bool = False


_frames = msgspec.json.Decoder(Frame)


@dataclass(frozen=True, slots=True)
class PlainDialect:
    """The frames of one caller, on any of its threads; a subscription's name is its thread's id."""

    rest: Rest

    def read(self, data: str | bytes) -> Frame:
        """Return a client's frame; raises `InvalidRequestError` (`invalid_frame`, `too_deep`)."""
        return frame_of(data)

    def refusal(self, frame: Frame | None, error: TurnstreamError) -> Mapping[str, object]:
        """Return the answer to a frame that failed."""
        return {
            "type": "error",
            "code": error.code,
            "detail": clean_text(str(error)),
            "field": error.field,
            "retryable": error.retryable,
            "id": None if frame is None else frame.id,
        }

    async def attend(self, socket: ClientSocket[Frame]) -> None:
        """Return at once: a client names a thread only with a frame."""

    async def answer(self, frame: Frame, socket: ClientSocket[Frame]) -> Mapping[str, object]:
        """Carry a frame out."""
        return await self._answer(frame, socket) | {"id": frame.id}

    async def _answer(self, frame: Frame, socket: ClientSocket[Frame]) -> dict[str, object]:
        match frame.type:
            case "ping":
                return {"type": "pong"}
            case "chat":
                return await self._chat(frame, socket)
            case "resume":
                return await self._resume(frame, socket)
            case "unsubscribe":
                socket.unsubscribe(frame.thread_id, missing_ok=True)
            case "subscribe":
                since = None if frame.since is None else Cursor.of_seq(frame.since)
                await self._join(socket, frame.thread_id, since)
            case "cancel":
                key = await self.rest.key(frame.thread_id)
                row = await self.rest.run(key, frame.run_id)
                run_id = str(row.turn_id)
                await self.rest.edge.submit.cancel(
                    self.rest.caller, frame.thread_id, run_id, rollback=frame.rollback
                )
        return {"type": "ok"}

    async def _chat(self, frame: Frame, socket: ClientSocket[Frame]) -> dict[str, object]:
        try:
            body = ChatBody(
                text=frame.text,
                thread_id=frame.thread_id or None,
                graph=frame.graph or DEFAULT_GRAPH,
                idempotency_key=frame.idempotency_key or None,
                on_busy=frame.on_busy,
                expires_at=frame.expires_at,
            )
        except ValidationError as error:
            raise _invalid(error) from error
        command = said(self.rest, body)  # raises before a thread is made for it
        thread_id = command.thread_id
        await make_if_needed(self.rest, thread_id, create=True, graph=command.graph)
        if thread_id not in socket.subscriptions:
            await self._join(socket, thread_id, None)
        return _accepted(thread_id, await self.rest.edge.submit.send(command))

    async def _resume(self, frame: Frame, socket: ClientSocket[Frame]) -> dict[str, object]:
        key = await self.rest.key(frame.thread_id)
        graph = frame.graph or await self.rest.edge.graph_asking(key)
        try:
            body = RunBody(
                assistant_id=graph,
                command=CommandBody(resume=check_json(frame.answers)),
                expires_at=frame.expires_at,
            )
        except (ValidationError, ValueError) as error:
            raise _invalid(error) from error
        if frame.thread_id not in socket.subscriptions:
            await self._join(socket, frame.thread_id, None)
        started = await start(self.rest, frame.thread_id, body)
        return _accepted(frame.thread_id, started.submitted)

    async def _join(
        self, socket: ClientSocket[Frame], thread_id: str, since: Cursor | None
    ) -> None:
        """Subscribe to a thread; a second time begins anew."""
        key = await patiently(lambda: self.rest.key(thread_id))
        socket.subscribe(thread_id, key, self._follow(socket, thread_id, key, since))

    async def _follow(
        self, socket: ClientSocket[Frame], thread_id: str, key: str, since: Cursor | None
    ) -> None:
        events = follow(self.rest.edge.feed, key, SimpleProjection, since)
        async with aclosing(events):
            async for seq, (name, data) in events:
                await socket.send({"type": name, "thread_id": thread_id, "cursor": seq} | data)


def _accepted(thread_id: str, submitted: Submitted) -> dict[str, object]:
    return {
        "type": "accepted",
        "thread_id": thread_id,
        "run_id": submitted.turn_id,
        "status": "pending" if submitted.state == "pending" else "running",
    }


def frame_of(data: str | bytes) -> Frame:
    """Return a client's frame; raises `InvalidRequestError` (`invalid_frame`)."""
    if data.lstrip()[:1] not in ("{", b"{"):
        raise InvalidRequestError("a frame is a JSON object", code="invalid_frame")
    check_depth(data, envelope=True)
    try:
        frame = _frames.decode(data)
    except (ValueError, msgspec.MsgspecError) as error:
        raise InvalidRequestError(
            f"the frame is not valid: {error}", code="invalid_frame"
        ) from error
    for name in ("id", "thread_id", "run_id", "graph", "idempotency_key"):
        value = getattr(frame, name)
        if isinstance(value, str) and len(value) > NAME_CHARS_MAX:
            raise InvalidRequestError(
                f"{name} has more than {NAME_CHARS_MAX} characters",
                code="invalid_frame",
                field=name,
            )
    return frame


def _invalid(error: ValueError) -> InvalidRequestError:
    """Return the error for a wrong field, as over HTTP."""
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return InvalidRequestError(first["msg"], field=".".join(map(str, first["loc"])))
    return InvalidRequestError(str(error))
