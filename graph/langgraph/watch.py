"""What LangGraph's streams leave out: retries, and which task a tool or a writer belongs to."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import structlog
from langchain_core.callbacks import AsyncCallbackHandler, BaseCallbackHandler
from langgraph.config import get_config
from langgraph.errors import GraphBubbleUp, GraphInterrupt, ParentCommand
from langgraph.runtime import Runtime

from turnstream.graph.langgraph.tool_answers import CALL
from turnstream.graph.langgraph.translate import Written
from turnstream.graph.langgraph.translate_paths import graph_namespace, namespace_of
from turnstream.graph.langgraph.usage import prompt_tokens
from turnstream.schemas.unexpected import class_name, described

if TYPE_CHECKING:
    from uuid import UUID

    from langchain_core.messages import BaseMessage

    from turnstream.graph.langgraph.translate import Translator
    from turnstream.graph.langgraph.translate_paths import Namespace
    from turnstream.graph.ports.commits import Commits

log = structlog.get_logger(__name__)

_STREAM_TURNS = 10  # of the loop, until the reader of the stream has had what was said before


RUNTIME = "__pregel_runtime"
"""Where a config carries the runtime that a run builds its own upon. It has no public name; a test
holds that it still works."""


class SigningRuntime(Runtime[Any]):
    """Makes stream writers say which task writes: the `custom` stream names only the graph.

    With several tasks running, a reader could not tell whose item it is, and a crash would take
    back what a finished task had written.
    """

    def merge(self, other: Runtime[Any]) -> Runtime[Any]:
        """Return the run's own runtime, its writer signing what it is given."""
        merged = super().merge(other)
        write = merged.stream_writer

        def sign(data: object) -> None:
            write(Written(get_config()["configurable"].get("checkpoint_ns", ""), data))

        return merged.override(stream_writer=sign)


class _NotOfModels(BaseCallbackHandler):
    """Is not called for models: a call a token, even an empty one, adds up."""

    @property
    def ignore_llm(self) -> bool:
        """Whether tokens and ends of models are left out."""
        return True

    @property
    def ignore_chat_model(self) -> bool:
        """Whether starts of chat models are left out."""
        return True


class ToolTasks(_NotOfModels):
    """Notes each tool call's task and its error's class: the `tools` stream has neither."""

    run_inline = True

    def __init__(self, translator: Translator) -> None:
        self._translator = translator
        self._calls: dict[UUID, tuple[Namespace, str]] = {}
        self._askers: list[tuple[Any, str]] = []

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


class RetryWatch(_NotOfModels, AsyncCallbackHandler):
    """Says `TaskRetried` before a task runs again in this attempt.

    LangGraph awaits it before the node's body: what was committed under the task settles first, so
    that the event can name what it does not take back.
    """

    run_inline = True
    raise_error = True

    # In a plain tool's thread each event of an asynchronous handler costs a thread and a loop of
    # its own, even where it does nothing: tools of one step then overtook each other.

    @property
    def ignore_agent(self) -> bool:
        """Whether tools are left out."""
        return True

    @property
    def ignore_retriever(self) -> bool:
        """Whether retrievers are left out."""
        return True

    @property
    def ignore_custom_event(self) -> bool:
        """Whether custom events are left out."""
        return True

    def __init__(self, translator: Translator, commits: Commits) -> None:
        self._translator = translator
        self._commits = commits
        self._loop = asyncio.get_running_loop()
        self._attempts: dict[str, int] = {}
        self._runs: dict[UUID, str] = {}
        self._errors: dict[str, str] = {}

    async def on_chain_start(
        self,
        serialized: dict[str, object] | None,  # noqa: ARG002  the interface's
        inputs: object,  # noqa: ARG002
        *,
        run_id: UUID,
        tags: list[str] | None = None,
        metadata: dict[str, object] | None = None,
        **_: object,
    ) -> None:
        """Count a task's runs; the tag tells them from what runs inside of a task."""
        if not any(tag.startswith("graph:step:") for tag in tags or ()):
            return
        namespace = namespace_of(metadata)
        if not namespace:
            return
        self._runs[run_id] = namespace
        attempt = self._attempts[namespace] = self._attempts.get(namespace, 0) + 1
        if attempt == 1:
            return
        retried = self._retried(namespace, attempt)
        if asyncio.get_running_loop() is self._loop:
            await retried
        else:  # from a thread: synchronous code that runs a graph of its own
            await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(retried, self._loop))

    async def on_chain_error(self, error: BaseException, *, run_id: UUID, **_: object) -> None:
        """Remember why a run of a task failed, as far as clients may know it, or a hand-over."""
        if (namespace := self._runs.pop(run_id, None)) is not None:
            if isinstance(error, ParentCommand):
                self._translator.handed_over(namespace)
            self._errors[namespace] = class_name(error)

    async def on_chain_end(self, outputs: object, *, run_id: UUID, **_: object) -> None:  # noqa: ARG002
        """Forget the run."""
        self._runs.pop(run_id, None)

    async def _retried(self, namespace: str, attempt: int) -> None:
        for inner in [key for key in self._attempts if key.startswith(f"{namespace}|")]:
            del self._attempts[inner]  # taken back with this task: they start anew
        for _ in range(_STREAM_TURNS):
            await asyncio.sleep(0)
        path = self._translator.path_of(namespace)
        keep = await self._commits.settled(path)
        self._translator.retried(path, keep, attempt, self._errors.get(namespace, ""))
