"""A client of the edge's public protocol, for the terminal: one thread, one turn at a time.

Speaks the Agent Streaming Protocol: commands by HTTP, a turn's events by WebSocket. A dropped
socket is opened again with the highest `seq` seen, so nothing is shown twice or lost.
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote, urlsplit

import aiohttp
import msgspec

from turnstream.schemas.errors import ChatError, InvalidRequestError, UnavailableError
from turnstream.streams.app.hiding import hidden
from turnstream.streams.client.pieces import End, Piece, Reader

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from types import TracebackType

CHANNELS = ("lifecycle", "messages", "tools", "input")
FRAME_BYTES_MAX = 16 << 20
_DROPS_MAX = 20
_PAUSE_FIRST_S = 0.1
_PAUSE_MAX_S = 2.0
_CALL_TIMEOUT_S = 30.0
_HTTP_ERROR = 400
_CLIENT_ERRORS = range(4400, 4500)
_RETRIED_CLOSES = frozenset({4408, 4429})


def check_edge_url(url: str) -> str:
    """Return the URL; raises `InvalidRequestError` for one that no edge can have."""
    try:
        parts = urlsplit(url)
        valid = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
    if not valid:
        raise InvalidRequestError(
            f"{hidden(url)[:200]!r} is no URL of an edge, such as http://127.0.0.1:8123",
            field="edge_url",
        )
    return url


class Chat:
    """One thread at one edge; an async context manager.

    `url` is the edge's base URL, `token` a bearer token or empty. Calls raise `ChatError` for what
    the edge refuses and `UnavailableError` where it does not answer.
    """

    def __init__(
        self, url: str, thread_id: str, *, token: str = "", assistant: str = "agent"
    ) -> None:
        self.thread_id = thread_id
        self.run_id = ""
        self._url = url.rstrip("/")
        self._base = f"{self._url}/threads/{quote(thread_id, safe='')}"
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._assistant = assistant
        self._command_id = 0
        self._seq = -1
        self._armed = False
        self._session: aiohttp.ClientSession | None = None
        self._subscribed = asyncio.Event()

    async def __aenter__(self) -> Self:
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10.0)
        self._session = aiohttp.ClientSession(headers=self._headers, timeout=timeout)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def create(self) -> None:
        """Make the thread, so that it can be watched before its first turn."""
        body = {"thread_id": self.thread_id, "if_exists": "do_nothing"}
        await self._post(f"{self._url}/threads", body, "create")

    async def subscribed(self) -> None:
        """Wait until `turn`, iterated elsewhere, receives every event from now on."""
        await self._subscribed.wait()

    async def send(self, text: str) -> None:
        """Start a turn with this message."""
        asked = {"messages": [{"role": "user", "content": text}]}
        await self._begin("run.start", {"assistant_id": self._assistant, "input": asked})

    async def answer(self, interrupt_id: str, response: object) -> None:
        """Answer a question, which starts a turn."""
        params = {"namespace": [], "interrupt_id": interrupt_id, "response": response}
        await self._begin("input.respond", params)

    async def cancel(self) -> None:
        """Ask for the running turn to stop; its end comes as an event, its text is kept."""
        await self._call("run.cancel", {"run_id": self.run_id})

    async def turn(self) -> AsyncGenerator[Piece | End, None]:
        """Yield the pieces of the turn, up to and with its `End`.

        A dropped socket is opened again, up to 20 times in a row without an event between.
        """
        reader = Reader(self._armed, self._seq)
        drops, pause = 0, _PAUSE_FIRST_S
        while True:
            try:
                async with self._socket(reader.seq) as socket:
                    async for message in socket:
                        if message.type is not aiohttp.WSMsgType.TEXT:
                            continue
                        frame = _object(message.data)
                        if "id" in frame and "method" not in frame:
                            self._subscribed.set()
                        for piece in reader.take(frame):
                            self._seq = reader.seq
                            drops, pause = 0, _PAUSE_FIRST_S
                            yield piece
                            if isinstance(piece, End):
                                return
                    _check_close(socket.close_code or 0)
            except aiohttp.WSServerHandshakeError as error:
                if error.status < 500 and error.status not in {408, 429}:  # noqa: PLR2004
                    raise ChatError(f"{error.status} {error.message}") from error
            except (aiohttp.ClientError, OSError, TimeoutError) as error:
                if drops >= _DROPS_MAX:
                    raise self._away(error) from error
            if drops >= _DROPS_MAX:
                raise UnavailableError(
                    f"the edge at {hidden(self._url)} closed the socket {drops} times"
                )
            drops += 1
            yield Piece("dropped")
            await asyncio.sleep(pause)
            pause = min(pause * 2, _PAUSE_MAX_S)

    def _socket(self, since: int) -> _Socket:
        url = f"{self._base}/stream/events".replace("http", "ws", 1)
        return _Socket(self._opened(), url, since)

    async def _begin(self, method: str, params: dict[str, Any]) -> None:
        answer = await self._call(method, params)
        self.run_id = str((answer.get("result") or {}).get("run_id", ""))
        through = (answer.get("meta") or {}).get("applied_through_seq")
        self._armed = isinstance(through, int)
        if isinstance(through, int):
            self._seq = max(self._seq, through)

    async def _call(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        self._command_id += 1
        command = {"id": self._command_id, "method": method, "params": params}
        return await self._post(f"{self._base}/commands", command, method)

    async def _post(self, url: str, value: dict[str, Any], what: str) -> dict[str, Any]:
        body, headers = msgspec.json.encode(value), {"Content-Type": "application/json"}
        try:
            async with (
                asyncio.timeout(_CALL_TIMEOUT_S),
                self._opened().post(url, data=body, headers=headers) as got,
            ):
                answer = _object(await got.read())
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise self._away(error) from error
        if got.status >= _HTTP_ERROR or answer.get("type") == "error":
            why = answer.get("message") or answer.get("detail") or answer.get("title") or got.reason
            raise ChatError(str(why), code=str(answer.get("code") or answer.get("error") or ""))
        if "type" not in answer and what != "create":
            raise ChatError(f"what answers at {hidden(self._url)} is no edge (HTTP {got.status})")
        return answer

    def _away(self, error: Exception) -> UnavailableError:
        """Return the error of an edge that does not answer."""
        cause = getattr(error, "os_error", error)
        number = getattr(cause, "errno", None)
        why = os.strerror(number) if number else type(error).__name__
        if isinstance(error, TimeoutError):
            why = "no answer in time"
        return UnavailableError(
            f"the edge at {hidden(self._url)} does not answer ({why}); is it running?"
        )

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            raise ChatError("the chat is not open")
        return self._session


class _Socket:
    """One subscribed WebSocket."""

    def __init__(self, session: aiohttp.ClientSession, url: str, since: int) -> None:
        self._connect = session.ws_connect(url, max_msg_size=FRAME_BYTES_MAX, heartbeat=20.0)
        self._since = since

    async def __aenter__(self) -> aiohttp.ClientWebSocketResponse:
        socket = await self._connect.__aenter__()
        params: dict[str, Any] = {"channels": list(CHANNELS)}
        if self._since >= 0:
            params["since"] = self._since
        command = {"id": 1, "method": "subscription.subscribe", "params": params}
        await socket.send_str(msgspec.json.encode(command).decode())
        return socket

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        await self._connect.__aexit__(kind, error, at)


def _check_close(code: int) -> None:
    """Raise `ChatError` for a close code after which a reconnect is useless."""
    if code in _CLIENT_ERRORS and code not in _RETRIED_CLOSES:
        raise ChatError(f"the edge closed the socket with {code}")


def _object(data: str | bytes) -> dict[str, Any]:
    try:
        return msgspec.json.decode(data, type=dict[str, Any])
    except msgspec.DecodeError:
        return {}
