"""The chat model that a turn calls."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from turnstream.graph.ports.lookup import Port

if TYPE_CHECKING:
    from collections.abc import Callable

    from turnstream.schemas.chat import ChatAnswer, ChatRequest, Delta


class ModelClient(Protocol):
    """Streams answers of a chat model."""

    async def stream(self, request: ChatRequest, push: Callable[[list[Delta]], None]) -> ChatAnswer:
        """Call `push` once per network read, in order; return when the answer is whole.

        `push` must not block. Raises `ModelError`; cancelling the task frees the server's slot.
        A call that failed is not repeated here.
        """
        ...


MODEL: Final = Port[ModelClient]("model")
