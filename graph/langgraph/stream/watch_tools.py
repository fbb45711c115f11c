"""What LangGraph's streams leave out of tool calls: their tasks, and their errors' classes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog
from langgraph.errors import GraphBubbleUp, GraphInterrupt

from turnstream.graph.langgraph.stream.translate_paths import graph_namespace, namespace_of
from turnstream.graph.langgraph.stream.watch_models import NotOfModels
from turnstream.graph.langgraph.tool_answers import CALL
from turnstream.schemas.unexpected import class_name, described

if TYPE_CHECKING:
    from uuid import UUID

    from turnstream.graph.langgraph.stream.translate import Translator
    from turnstream.graph.langgraph.stream.translate_paths import Namespace

log = structlog.get_logger(__name__)


class ToolTasks(NotOfModels):
    """Notes each tool call's task and its error's class: the `tools` stream has neither."""

    run_inline = True

    def __init__(self, translator: Translator) -> None:
        self._translator = translator
        self._calls: dict[UUID, tuple[Namespace, str]] = {}
        self._askers: list[tuple[object, str]] = []

    def asker_of(self, interrupt: object) -> str:
        """Return the tool call that raised this question, "" if none did."""
        return next((call for one, call in self._askers if one is interrupt), "")

    def on_tool_start(
        self,
        serialized: dict[str, object] | None,  # noqa: ARG002  the interface's
        input_str: str,  # noqa: ARG002
        *,
        run_id: UUID,
        metadata: dict[str, object] | None = None,
        **kwargs: object,
    ) -> None:
        """Note the path under the tool call's id."""
        about = metadata or {}
        call = str(kwargs.get("tool_call_id") or run_id)
        key = self._calls[run_id] = (graph_namespace(about), call)
        path = self._translator.path_of(namespace_of(metadata))
        self._translator.tools.paths[key] = path
        CALL.set(call)

    def on_tool_end(self, output: object, *, run_id: UUID, **_: object) -> None:  # noqa: ARG002
        """Forget the call."""
        self._calls.pop(run_id, None)

    def on_tool_error(self, error: BaseException, *, run_id: UUID, **_: object) -> None:
        """Note the error's class; the stream has only its text, which clients do not see."""
        if (key := self._calls.pop(run_id, None)) is None:
            return
        if isinstance(error, GraphInterrupt):
            self._askers += [(one, key[1]) for one in error.args[0]]
        if isinstance(error, GraphBubbleUp):
            return
        self._translator.tools.errors[key] = class_name(error)
        log.warning("tool_failed", tool_call=key[1], **described(error))
