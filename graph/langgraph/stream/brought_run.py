"""Runs a user's graph, and translates what it streams into the turn's events."""

from __future__ import annotations

from typing import TYPE_CHECKING

from turnstream.graph.langgraph.stream.signing_runtime import RUNTIME, SigningRuntime
from turnstream.graph.langgraph.stream.task_ends import TaskEnds
from turnstream.graph.langgraph.stream.translate import MODES, Translator
from turnstream.graph.langgraph.stream.watch_models import Prompts
from turnstream.graph.langgraph.stream.watch_retries import RetryWatch
from turnstream.graph.langgraph.stream.watch_tools import ToolTasks
from turnstream.graph.recorded import record_with

if TYPE_CHECKING:
    from collections.abc import Mapping

    from langchain_core.runnables import RunnableConfig
    from langgraph.runtime import RunControl

    from turnstream.graph.langgraph.factories import AnyPregel
    from turnstream.graph.ports.commits import Commits
    from turnstream.graph.ports.emitter import Emitter


class BroughtRun:
    """One attempt's run of a graph whose nodes do not emit themselves."""

    def __init__(self, emitter: Emitter, commits: Commits) -> None:
        self._commits = commits
        self._ends = TaskEnds()
        progress = commits.progress
        self._translator = Translator(
            emitter,
            finished=progress.finished,
            stored=progress.stored,
            step_of=progress.step_of,
            ended=self._ends.ended,
        )
        self._tools = ToolTasks(self._translator)

    @property
    def askers(self) -> Mapping[str, str]:
        """By interrupt id the tool call that asked, of the questions that are open."""
        asker_of, asked = self._tools.asker_of, self._commits.asked
        return {key: call for key, one in asked.items() if (call := asker_of(one.interrupt))}

    def path_of(self, namespace: str) -> str:
        """Return the path of a LangGraph namespace."""
        return self._translator.path_of(namespace)

    async def task_ended(self, task_id: str) -> None:
        """Wait until the task's last item has been translated."""
        await self._ends.wait(task_id)

    async def run(
        self,
        graph: AnyPregel,
        call: object,
        config: RunnableConfig,
        context: object,
        control: RunControl,
    ) -> None:
        """Run the graph until it ends or asks; raises what it raises."""
        record_with(self._commits.tool_calls)
        translator = self._translator
        watched: RunnableConfig = {
            **config,
            "configurable": {
                **config["configurable"],
                RUNTIME: SigningRuntime(store=graph.store),
            },
            "callbacks": [
                self._tools,
                Prompts(translator),
                RetryWatch(translator, self._commits),
            ],
        }
        async for item in graph.astream(
            call,
            watched,
            context=context,
            stream_mode=list(MODES),
            subgraphs=True,
            durability="sync",
            control=control,
            version="v2",
        ):
            translator.feed(item)  # no await in this loop: writes would run ahead of their events
