"""What LangGraph's streams leave out of model calls: how long their prompts are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from langchain_core.callbacks import BaseCallbackHandler

from turnstream.graph.langgraph.stream.translate_paths import namespace_of
from turnstream.graph.langgraph.stream.usage import prompt_tokens

if TYPE_CHECKING:
    from uuid import UUID

    from langchain_core.messages import BaseMessage

    from turnstream.graph.langgraph.stream.translate import Translator


class NotOfModels(BaseCallbackHandler):
    """Is not called for models: a call a token, even an empty one, adds up."""

    @property
    def ignore_llm(self) -> bool:
        """Whether tokens and ends of models are left out."""
        return True

    @property
    def ignore_chat_model(self) -> bool:
        """Whether starts of chat models are left out."""
        return True


class Prompts(BaseCallbackHandler):
    """Notes how long the prompts are, for answers whose server does not count tokens."""

    run_inline = True

    def __init__(self, translator: Translator) -> None:
        self._translator = translator

    @property
    def ignore_llm(self) -> bool:
        """Whether tokens and ends of models are left out."""
        return True

    def on_chat_model_start(
        self,
        serialized: dict[str, object] | None,  # noqa: ARG002  the interface's
        messages: list[list[BaseMessage]],
        *,
        run_id: UUID,  # noqa: ARG002
        metadata: dict[str, object] | None = None,
        **_: object,
    ) -> None:
        """Note about how many tokens the model is given, under the task that calls it."""
        namespace = namespace_of(metadata)
        self._translator.messages.prompts[namespace] = prompt_tokens(messages[0])
