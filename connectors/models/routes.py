"""Several model servers behind one client: a request's model name picks the server."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType

    from turnstream.connectors.models.openai.client import OpenAIModel
    from turnstream.schemas.chat import ChatAnswer, ChatRequest, Delta


class RoutedModel:
    """Sends a request to the server of its model name, else to `default`. Use `async with`.

    The name counts up to its first colon: `big:q4` goes where `big` goes. Implements
    `turnstream.graph.ports.model.ModelClient`.
    """

    def __init__(self, default: OpenAIModel, routes: Mapping[str, OpenAIModel]) -> None:
        self._default = default
        self._routes = dict(routes)
        self._open = AsyncExitStack()

    async def __aenter__(self) -> Self:
        async with self._open as opening:
            for client in (self._default, *self._routes.values()):
                await opening.enter_async_context(client)
            self._open = opening.pop_all()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._open.aclose()

    async def stream(self, request: ChatRequest, push: Callable[[list[Delta]], None]) -> ChatAnswer:
        """Stream one answer; see `turnstream.graph.ports.model.ModelClient.stream`."""
        name = request.model.partition(":")[0]
        return await self._routes.get(name, self._default).stream(request, push)
