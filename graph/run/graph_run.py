"""Runs a turn's graph: a start with its input, a resume with its answers.

Every attempt makes the same call; LangGraph goes on where the checkpoints stand. Graphs that emit
themselves (native ones) run without stream modes; `BroughtRun` runs the others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from langgraph.errors import GraphDrained

from turnstream.graph.langgraph import nested_retries, tool_answers, unheard, wait_for
from turnstream.graph.langgraph.run_context import run_context
from turnstream.graph.run.ending import RunOutcome, completed, interrupted
from turnstream.graph.run.interrupting import RUNNING

if TYPE_CHECKING:
    from langchain_core.runnables import RunnableConfig
    from langgraph.runtime import RunControl

    from turnstream.graph.langgraph.factories import AnyPregel
    from turnstream.graph.langgraph.stream.brought_run import BroughtRun
    from turnstream.graph.ports.commits import Commits
    from turnstream.graph.run.control import TurnControl
    from turnstream.graph.run.input import TurnInput
    from turnstream.graph.run.said import Said
    from turnstream.graph.run.turn_graph import TurnGraph

nested_retries.install()
wait_for.install()
tool_answers.install()
unheard.install()


class GraphRun:
    """One attempt's run of its turn's graph. `brought` is None for native graphs."""

    def __init__(
        self,
        turn: TurnInput,
        graph: TurnGraph,
        said: Said,
        commits: Commits,
        brought: BroughtRun | None,
    ) -> None:
        self._turn = turn
        self._graph = graph
        self._said = said
        self._commits = commits
        self._brought = brought

    async def run(self, control: TurnControl) -> RunOutcome:
        """Run the graph to the end that it comes to by itself; raises what the graph raises."""
        RUNNING.set(control)
        ended = RunOutcome(outcome=None)
        async with self._graph.running() as graph:
            limit = (graph.config or {}).get("recursion_limit")
            config = self._turn.runnable_config(limit=limit, limit_max=self._graph.steps_max)
            try:
                await self._call(graph, config, control.run)
            except GraphDrained:
                await self._commits.flush()
            else:
                ended = await self._ended(graph, config)
        return ended

    async def _call(self, graph: AnyPregel, config: RunnableConfig, control: RunControl) -> None:
        call = self._turn.call(await self._pending(graph, config))
        if self._brought is not None:
            turn = self._turn
            context = run_context(graph.context_schema, turn.context, turn.configurable)
            await self._brought.run(graph, call, config, context, control)
            return
        make = self._graph.entry.make_context
        async for _ in graph.astream(
            call,
            config,
            context=make(self._said, self._turn, self._commits) if make else None,
            stream_mode=[],
            durability="sync",
            control=control,
            version="v2",
        ):
            pass

    async def _pending(self, graph: AnyPregel, config: RunnableConfig) -> set[str] | None:
        """Return the questions still open, where an earlier attempt may have answered some."""
        if self._turn.kind == "start" or not self._turn.again:
            return None
        return {interrupt.id for interrupt in (await graph.aget_state(config)).interrupts}

    async def _ended(self, graph: AnyPregel, config: RunnableConfig) -> RunOutcome:
        if self._commits.asked:
            return RunOutcome(outcome=interrupted(self._said, self._commits.asked))
        values = self._graph.values if self._brought is not None else None
        return RunOutcome(outcome=await completed(self._said, graph, config, values))
