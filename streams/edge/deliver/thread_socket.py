"""The Agent Streaming Protocol over a WebSocket: commands on one thread, and subscriptions."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import structlog

from turnstream.schemas import unexpected
from turnstream.schemas.errors import CommandError, TooManyRequestsError, TurnstreamError
from turnstream.schemas.ids import check_thread_id, thread_key
from turnstream.streams.edge.ask.commands import Commands, error_message, parse_command, success
from turnstream.streams.edge.deliver.filters import Filter
from turnstream.streams.edge.follow.cursor import cursor_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from turnstream.streams.edge.ask.commands import Command
    from turnstream.streams.edge.deliver.client_socket import ClientSocket
    from turnstream.streams.edge.server.auth import Principal
    from turnstream.streams.edge.server.context import EdgeContext

_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class ThreadDialect:
    """The commands of one caller on one thread; raises `InvalidRequestError` for its id."""

    edge: EdgeContext
    caller: Principal
    thread_id: str
    _key: str = field(init=False)
    _count: int = 0

    def __post_init__(self) -> None:
        """Check the thread's id."""
        self._key = thread_key(self.caller.tenant, check_thread_id(self.thread_id))

    def read(self, data: str | bytes) -> Command:
        """Return a command; raises `CommandError`, `InvalidRequestError` (`too_deep`)."""
        if isinstance(data, bytes):
            raise CommandError("a command is a JSON object in a text frame")
        return parse_command(data.encode("utf-8", "replace"))

    async def answer(self, frame: Command, socket: ClientSocket[Command]) -> Mapping[str, object]:
        """Carry a command out."""
        if frame.method == "subscription.subscribe":
            return success(frame.id, {"subscription_id": self._subscribe(frame, socket)})
        if frame.method == "subscription.unsubscribe":
            socket.unsubscribe(str(frame.params.get("subscription_id")))
            return success(frame.id, {})
        return await Commands(self.edge, self.caller, self.thread_id).run(frame)

    def refusal(self, frame: Command | None, error: TurnstreamError) -> Mapping[str, object]:
        """Return the protocol's error."""
        return error_message(None if frame is None else frame.id, error)

    async def attend(self, socket: ClientSocket[Command]) -> None:
        """Close the socket if its thread does not begin within `unknown_thread_wait_s`.

        The JavaScript SDK opens the socket of a thread that it named itself before its first
        command, and takes 4404 as final. A key begins with the caller's tenant, so a thread of
        another tenant is one that never begins.
        """
        try:
            if await self.edge.knows(self._key):
                return
            await asyncio.sleep(self.edge.sockets.limits.unknown_thread_wait_s)
            if not await self.edge.knows(self._key):
                socket.outlet.close(4404, "thread_not_found")
        except TurnstreamError as error:  # the database does not answer: the socket stays
            _log.warning("thread_lookup_failed", thread=self._key, code=error.code)
        except Exception as error:  # noqa: BLE001  likewise
            unexpected.note("edge_socket", error, thread=self._key)

    def _subscribe(self, frame: Command, socket: ClientSocket[Command]) -> str:
        wanted, since = Filter.of(frame.params), cursor_of(frame.params, None)
        name = f"sub-{self._count + 1}"
        stream = self.edge.sockets.serve(self._key, socket.outlet, wanted, since)
        try:
            socket.subscribe(name, self._key, stream)
        except TooManyRequestsError as error:
            raise CommandError(str(error)) from error
        self._count += 1
        return name
