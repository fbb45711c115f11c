"""One attempt at one turn: its life from the call of its graph to what came of it.

1. the run starts in a task of its own (`graph_run.py`), with the turn's input (`input.py`)
2. it ends by itself with an answer or with questions (`ending.py`, `questions.py`), or is drained
3. or it is stopped: from outside (`control.py`), or by a bound of time (`deadlines.py`)
4. or it raises an error, which becomes an outcome (`errors.py`)
5. after 3 and 4 the turn is closed: what had been said stays (`closing.py`)
"""

from __future__ import annotations

import asyncio
from contextvars import copy_context
from dataclasses import replace
from typing import TYPE_CHECKING

from turnstream.graph.langgraph import node_exits
from turnstream.graph.langgraph.stream.brought_run import BroughtRun
from turnstream.graph.run.closing import Closing
from turnstream.graph.run.deadlines import TurnLimits, overrun
from turnstream.graph.run.errors import drop_frames, outcome_of
from turnstream.graph.run.graph_run import GraphRun
from turnstream.graph.run.run_facts import GraphFacts
from turnstream.graph.run.said import Said
from turnstream.graph.run.turn_graph import TurnGraph

if TYPE_CHECKING:
    from langgraph.checkpoint.base import BaseCheckpointSaver

    from turnstream.graph.langgraph.catalog import GraphEntry
    from turnstream.graph.ports.commits import Commits
    from turnstream.graph.ports.emitter import Emitter
    from turnstream.graph.run.control import TurnControl
    from turnstream.graph.run.ending import RunOutcome
    from turnstream.graph.run.input import TurnInput
    from turnstream.schemas.errors import TurnError
    from turnstream.schemas.records.results import Outcome

STOP_TIMEOUT_S = 5.0
"""For tasks that were told to stop; code in threads cannot be, and is left behind."""

NO_LIMITS = TurnLimits()


async def run_turn(
    entry: GraphEntry,
    turn: TurnInput,
    emitter: Emitter,
    saver: BaseCheckpointSaver[str],
    control: TurnControl,
    *,
    commits: Commits,
    limits: TurnLimits = NO_LIMITS,
) -> RunOutcome:
    """Run a turn in the saver's session that is bound here, until it ends or drains.

    What the graph does wrong becomes an outcome. Raised are only errors of the attempt itself
    (`FencedError`, a lost database or log): then nothing may be committed or said any more.
    Cancelling the caller stops the graph, within `STOP_TIMEOUT_S`, and is passed on.
    """
    steps_max = limits.recursion_limit_max
    attempt = _Attempt(entry, turn, emitter, saver=saver, commits=commits, steps_max=steps_max)
    attempt.start(control)
    late = await attempt.over(limits)
    if commits.lost is not None:
        raise commits.lost
    if (failure := late or control.failure) is not None:
        return await attempt.closing.close(outcome_of(failure))
    if attempt.told.done():  # whatever a node made of it: what it did since is stored nowhere
        return await attempt.closing.cancelled(control.cause or "")
    return await attempt.result()


async def end_turn(
    entry: GraphEntry,
    turn: TurnInput,
    emitter: Emitter,
    saver: BaseCheckpointSaver[str],
    ended: Outcome,
    *,
    commits: Commits,
) -> RunOutcome:
    """Give a turn an end without running it; what earlier attempts had said and stored is kept."""
    steps_max = NO_LIMITS.recursion_limit_max
    attempt = _Attempt(entry, turn, emitter, saver=saver, commits=commits, steps_max=steps_max)
    attempt.silence()
    return await attempt.closing.close(ended)


class _Attempt:
    """The run's task and what ends it. `told`: it was told to stop before it ended by itself."""

    def __init__(
        self,
        entry: GraphEntry,
        turn: TurnInput,
        emitter: Emitter,
        *,
        saver: BaseCheckpointSaver[str],
        commits: Commits,
        steps_max: int,
    ) -> None:
        self._said = said = Said(emitter, turn.carried)
        self._commits = commits
        self._context = copy_context()
        if not entry.native:
            self._context.run(node_exits.enter)
        brought = None if entry.native else BroughtRun(said, commits)
        graph = TurnGraph(entry, turn, saver, steps_max)
        self._graph_run = GraphRun(turn, graph, said, commits, brought)
        self.closing = Closing(turn, graph, said, commits, self._context)
        self.told: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        commits.follow(GraphFacts(said, graph, brought))

    def start(self, control: TurnControl) -> None:
        """Start the run; from now on `control` can stop it."""
        self._run = asyncio.create_task(self._graph_run.run(control), context=self._context)
        control.on_stop(self.stop)

    def silence(self) -> None:
        """Hear and store nothing more of what the graph does."""
        self._said.close()
        self._commits.stop()

    def stop(self) -> None:
        """Stop the run, unless it has ended before: then it has ended all the same."""
        if not self._run.done():
            self.silence()
            self._run.cancel()
            if not self.told.done():
                self.told.set_result(None)

    async def over(self, limits: TurnLimits) -> TurnError | None:
        """Wait until the run is over, or was told to stop; return the bound that it passed."""
        try:
            progress = self._commits.progress
            late = await overrun({self._run, self.told}, limits, lambda: progress.stepped_at)
            if late is not None:
                self.silence()
                self._run.cancel()
            if not self._run.done():
                await asyncio.wait({self._run}, timeout=STOP_TIMEOUT_S)
        except asyncio.CancelledError:
            self.stop()
            await asyncio.wait({self._run}, timeout=STOP_TIMEOUT_S)
            raise
        finally:
            self._run.add_done_callback(_take_error)
        return late

    async def result(self) -> RunOutcome:
        """Return what the run came to by itself, or close the turn with the error it raised."""
        run = self._run
        if not run.cancelled() and run.exception() is None:
            return replace(run.result(), instead=self.closing.cancelled)
        self.silence()
        error = asyncio.CancelledError() if run.cancelled() else run.exception()
        ended = await self.closing.failed(error or asyncio.CancelledError())
        drop_frames(error)
        return ended


def _take_error(run: asyncio.Task[RunOutcome]) -> None:
    """Retrieve the error of a run that no caller awaits any more, now or when it ends."""
    if not run.cancelled():
        run.exception()
