"""Streaming chat client for any OpenAI-compatible server; docs/models.md says what it reads.

Writes `POST <base>/chat/completions` with `stream: true`, reads server-sent events, passes the
deltas of each network read on in one call. Nothing is awaited per token.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Self

import msgspec

from turnstream.connectors.models.http.transport import HttpTransport
from turnstream.connectors.models.openai.call import Call, ModelLimits, Server, body_of
from turnstream.connectors.models.openai.refusals import error_of_response
from turnstream.schemas.errors import InvalidRequestError, ModelBadResponseError
from turnstream.schemas.limits import check_depth

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from turnstream.schemas.chat import ChatAnswer, ChatRequest, Delta

__all__ = ["ModelLimits", "OpenAIModel"]

_MISSING = object()


class OpenAIModel:
    """Client of one server: a `graph.ports.model.ModelClient`. Use `async with`."""

    def __init__(
        self,
        base_url: str,
        *,
        model: str = "",
        api_key: str = "",
        limits: ModelLimits | None = None,
    ) -> None:
        url, limits = base_url.rstrip("/"), limits or ModelLimits()
        http = HttpTransport(
            url,
            {"authorization": f"Bearer {api_key}"} if api_key else {},
            connections_max=limits.connections_max,
            connect_timeout_s=limits.connect_timeout_s,
        )
        self._server = Server(url, model, api_key, http, limits)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._server.http.close()

    async def models(self) -> list[str]:
        """Return the names that the server lists, in its order. Raises `ModelError`."""
        server = self._server
        try:
            async with (
                asyncio.timeout(server.limits.connect_timeout_s * 2),
                server.http.get("/models") as response,
            ):
                body = await body_of(response, server.limits.answer_bytes_max)
                if not response.ok:
                    raise error_of_response(response.status, body, response.headers, key=server.key)
                return _names(body)
        except OSError as error:
            raise server.unreachable(error) from error

    async def stream(self, request: ChatRequest, push: Callable[[list[Delta]], None]) -> ChatAnswer:
        """Stream one answer; see `turnstream.graph.ports.model.ModelClient.stream`."""
        server = self._server
        if not (request.model or server.model):
            names = await self.models()
            if not names:
                raise ModelBadResponseError("the model server serves no model")
            server.model = names[0]
        return await Call(server, request, push).run()


def _names(body: bytes) -> list[str]:
    """Return the models in a list of them, OpenAI's or Ollama's; those without a name are none."""
    try:
        check_depth(body)
        listed = msgspec.json.decode(body)
    except (ValueError, InvalidRequestError) as error:
        raise ModelBadResponseError("the model server sent no list of models") from error
    if isinstance(listed, dict):
        listed = listed.get("data", listed.get("models", _MISSING))
    if not isinstance(listed, list | None):
        raise ModelBadResponseError("the model server sent no list of models")
    found = (entry.get("id") or entry.get("name") for entry in listed or () if
             isinstance(entry, dict))  # fmt: skip
    return [name for name in found if isinstance(name, str)]
