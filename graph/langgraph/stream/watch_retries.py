"""What LangGraph's streams leave out of tasks: that one runs again, and hand-overs."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from langchain_core.callbacks import AsyncCallbackHandler
from langgraph.errors import ParentCommand

from turnstream.graph.langgraph.stream.translate_paths import namespace_of
from turnstream.graph.langgraph.stream.watch_models import NotOfModels
from turnstream.schemas.unexpected import class_name

if TYPE_CHECKING:
    from uuid import UUID

    from turnstream.graph.langgraph.stream.translate import Translator
    from turnstream.graph.ports.commits import Commits

_STREAM_TURNS = 10  # of the loop, until the reader of the stream has had what was said before


class RetryWatch(NotOfModels, AsyncCallbackHandler):
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
