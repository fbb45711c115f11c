"""Streaming chat client for any OpenAI-compatible server (vLLM, llama.cpp, Ollama, TGI).

Writes `POST <base>/chat/completions` with `stream: true`, reads server-sent events, hands the
deltas of each network read over in one call. Nothing is awaited per token.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Self

import aiohttp
import msgspec

from turnstream.connectors.models.pace import Pace
from turnstream.connectors.models.refusals import error_of_event, error_of_response
from turnstream.connectors.models.sse import DeltaParser
from turnstream.schemas.chat import ChatAnswer
from turnstream.schemas.errors import (
    ModelBadResponseError,
    ModelError,
    ModelOverloadedError,
    ModelStalledError,
    ModelStreamCutError,
    ModelUnreachableError,
)
from turnstream.schemas.transcript import clean_text

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from turnstream.schemas.chat import ChatRequest, Delta


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelLimits:
    """Bounds of one client.

    `first_token_timeout_s` runs from the request to the first delta, the wait for a connection
    included; `token_gap_timeout_s` between two events after that. `connections_max` should not be
    below the turns of a worker. `read_every_s`: streams that have begun are read at moments so far
    apart, see `pace`; 0 reads at once. `tries_max` counts the first try; waits between tries double
    from `backoff_s`, with jitter, and follow `Retry-After` up to `backoff_max_s`.
    """

    connect_timeout_s: float = 5.0
    first_token_timeout_s: float = 60.0
    token_gap_timeout_s: float = 30.0
    connections_max: int = 512
    read_every_s: float = 0.0
    answer_bytes_max: int = 32 << 20
    error_bytes_max: int = 64 << 10
    tries_max: int = 3
    backoff_s: float = 0.2
    backoff_max_s: float = 5.0


class OpenAIModel:
    """Client of one server; implements `turnstream.graph.ports.ModelClient`. Use `async with`."""

    def __init__(
        self,
        base_url: str,
        *,
        model: str = "",
        api_key: str = "",
        limits: ModelLimits | None = None,
    ) -> None:
        self.base_url = base_url.rstrip("/")
        self.model = model
        self.limits = limits or ModelLimits()
        self._headers = {"content-type": "application/json"}
        if api_key:
            self._headers["authorization"] = f"Bearer {api_key}"
        self._http: aiohttp.ClientSession | None = None
        self._pace = Pace(self.limits.read_every_s)

    async def __aenter__(self) -> Self:
        self._http = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self.limits.connections_max, limit_per_host=0),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=self.limits.connect_timeout_s),
            headers=self._headers,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            skip_auto_headers=("accept-encoding",),
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._session.close()
        self._http = None

    @property
    def _session(self) -> aiohttp.ClientSession:
        if self._http is None:
            raise RuntimeError("the model client is used outside its `async with`")
        return self._http

    async def models(self) -> list[str]:
        """Return the names that the server lists, in its order. Raises `ModelError`."""
        try:
            async with (
                asyncio.timeout(self.limits.connect_timeout_s * 2),
                self._session.get(f"{self.base_url}/models") as response,
            ):
                body = await _body(response.content, self.limits.answer_bytes_max)
                if response.status != HTTPStatus.OK:
                    raise error_of_response(response.status, body, response.headers)
                return [entry.id for entry in msgspec.json.decode(body, type=_Models).data]
        except (aiohttp.ClientError, OSError) as error:
            raise ModelUnreachableError(_unreachable(self.base_url, error)) from error
        except msgspec.DecodeError as error:
            raise ModelBadResponseError(f"{self.base_url}/models sent no list") from error

    async def stream(self, request: ChatRequest, push: Callable[[list[Delta]], None]) -> ChatAnswer:
        """Stream one answer; see `turnstream.graph.ports.ModelClient.stream`."""
        if not (request.model or self.model):
            names = await self.models()
            if not names:
                raise ModelBadResponseError(f"{self.base_url} serves no model")
            self.model = names[0]
        body = request_body(request, request.model or self.model)
        call = _Call(self, body, request.request_id, push)
        tries = 1
        while True:
            try:
                return await call.run()
            except (ModelUnreachableError, ModelOverloadedError, ModelStreamCutError) as error:
                if call.pushed or tries >= self.limits.tries_max:
                    raise
                wait = self.limits.backoff_s * 2 ** (tries - 1) * random.uniform(0.5, 1.0)  # noqa: S311
                asked = error.retry_after_s if isinstance(error, ModelOverloadedError) else 0.0
                await asyncio.sleep(min(max(wait, asked), self.limits.backoff_max_s))
                tries += 1


class _Call:
    """One request, maybe tried more than once: the time-outs of a try and the reading loop."""

    def __init__(
        self,
        client: OpenAIModel,
        body: bytes,
        request_id: str,
        push: Callable[[list[Delta]], None],
    ) -> None:
        self.client = client
        self.body = body
        self.headers = {"x-request-id": request_id} if request_id else {}
        self.push = push
        self.pushed = False
        self._loop = asyncio.get_running_loop()
        self._last = 0.0  # loop time of the last event
        self._watch: asyncio.TimerHandle | None = None

    async def run(self) -> ChatAnswer:
        """Make one try."""
        limits = self.client.limits
        try:
            async with asyncio.timeout(None) as deadline:
                first = self._loop.time() + limits.first_token_timeout_s
                self._watch = self._loop.call_at(first, deadline.reschedule, first)
                return await self._read(deadline)
        except TimeoutError as error:
            what = "between two tokens" if self.pushed else "before the first token"
            seconds = limits.token_gap_timeout_s if self.pushed else limits.first_token_timeout_s
            raise ModelStalledError(
                f"{self.client.base_url} said nothing for {seconds:g} s {what}"
            ) from error
        finally:
            if self._watch is not None:
                self._watch.cancel()

    def _watch_gap(self, deadline: asyncio.Timeout) -> None:
        """Time out a gap between two events.

        Looks at the last event and sets itself again, so that a token costs no timer.
        """
        if self._watch is not None:
            self._watch.cancel()
        at = self._last + self.client.limits.token_gap_timeout_s
        if self._loop.time() >= at:
            deadline.reschedule(at)
        else:
            self._watch = self._loop.call_at(at, self._watch_gap, deadline)

    async def _read(self, deadline: asyncio.Timeout) -> ChatAnswer:
        client = self.client
        parser = DeltaParser()
        try:
            async with client._session.post(  # noqa: SLF001  same module
                f"{client.base_url}/chat/completions", data=self.body, headers=self.headers
            ) as response:
                try:
                    await self._deltas(response, parser, deadline)
                except BaseException:
                    response.close()  # a request that nobody reads must free its slot
                    raise
        except aiohttp.ClientPayloadError as error:
            raise self._cut() from error
        except (aiohttp.ClientError, OSError) as error:
            if self.pushed:
                raise self._cut() from error
            raise ModelUnreachableError(_unreachable(client.base_url, error)) from error
        if parser.error is not None:
            raise error_of_event(parser.error)
        if not parser.finish_reason and not parser.done:
            raise self._cut()
        return ChatAnswer(
            finish_reason=parser.finish_reason or "stop",
            model=parser.model or client.model,
            request_sha256=hashlib.sha256(self.body).hexdigest(),
            usage=parser.usage,
        )

    async def _deltas(
        self,
        response: aiohttp.ClientResponse,
        parser: DeltaParser,
        deadline: asyncio.Timeout,
    ) -> None:
        limits = self.client.limits
        content = response.content
        if response.status != HTTPStatus.OK:
            body = await _body(content, limits.error_bytes_max)
            raise error_of_response(response.status, body, response.headers)
        room = limits.answer_bytes_max
        pace = self.client._pace  # noqa: SLF001  same module
        seen = 0
        while data := await content.readany():
            deltas = parser.feed(data)
            if parser.seen != seen:  # comments are no sign of life
                seen = parser.seen
                self._last = self._loop.time()
            if deltas:
                if not self.pushed:
                    self.pushed = True
                    self._watch_gap(deadline)
                self.push(deltas)
            room -= len(data)
            if room < 0:
                raise ModelBadResponseError(f"the answer is above {limits.answer_bytes_max} B")
            if parser.error is not None:
                return
            if deltas and not parser.finish_reason and response.connection is not None:
                pace.hold(response.connection.transport)
        if not seen:
            raise ModelBadResponseError("the model server's answer is no event stream")

    def _cut(self) -> ModelError:
        return ModelStreamCutError(f"{self.client.base_url} ended its answer in the middle")


class _Listed(msgspec.Struct):
    id: str


class _Models(msgspec.Struct):
    data: list[_Listed]


def request_body(request: ChatRequest, model: str) -> bytes:
    """Return the request's bytes; lone surrogates become U+FFFD, for JSON is UTF-8."""
    body: dict[str, Any] = {
        "model": model,
        "messages": request.messages,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if request.tools:
        body["tools"] = [
            {
                "type": "function",
                "function": {
                    "name": tool.name,
                    "description": tool.description,
                    "parameters": tool.parameters,
                },
            }
            for tool in request.tools
        ]
    body |= request.params
    try:
        return msgspec.json.encode(body)
    except UnicodeEncodeError:
        return msgspec.json.encode(_clean(body))


async def _body(content: aiohttp.StreamReader, bytes_max: int) -> bytes:
    body = b""
    while len(body) < bytes_max and (data := await content.readany()):
        body += data
    return body[:bytes_max]


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, dict):
        return {_clean(key): _clean(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_clean(item) for item in value]
    return value


def _unreachable(url: str, error: BaseException) -> str:
    return f"{url}: {error or type(error).__name__}"
