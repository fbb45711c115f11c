"""What streams answers of a chat model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

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
