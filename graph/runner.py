"""One attempt at one turn: runs the graph and says what came of it.

Every attempt makes the same call; LangGraph goes on where the checkpoints stand. Graphs that emit
themselves run without stream modes; others go through `translate.py`.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from langgraph.errors import GraphDrained
from langgraph.runtime import RunControl

from turnstream.graph.closing import closing_calls
from turnstream.graph.ending import last_answer, outcome_of, with_words
from turnstream.graph.said import Said
from turnstream.graph.translate import MODES, Translator
from turnstream.graph.values import to_json
from turnstream.graph.watch import RUNTIME, RetryWatch, SigningRuntime, ToolTasks
from turnstream.schemas.errors import TurnError
from turnstream.schemas.events import InputRequested, Interrupt
from turnstream.schemas.results import Outcome
from turnstream.schemas.transcript import text_sha256

if TYPE_CHECKING:
    from collections.abc import Callable

    from langchain_core.runnables import RunnableConfig
    from langgraph.checkpoint.base import BaseCheckpointSaver
    from langgraph.pregel import Pregel

    from turnstream.graph.catalog import GraphEntry
    from turnstream.graph.ports import Commits, Emitter, SaverCall
    from turnstream.graph.turn_input import TurnInput

STOP_TIMEOUT_S = 5.0
"""For tasks that were told to stop; code in threads cannot be, and is left behind."""

TASK_END_TIMEOUT_S = 1.0
"""For a task's end to come through the stream before its writes are stored without it; only nodes
that LangGraph hides have none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOutcome:
    """What an attempt came to: `outcome` to commit with `closing`, or None if it was drained."""

    outcome: Outcome | None
    closing: tuple[SaverCall, ...] = ()


class TurnControl:
    """The way to stop a run from outside; each call takes effect once, from the loop's thread."""

    def __init__(self) -> None:
        self.run = RunControl()
        self.cause: str | None = None
        self._stop: Callable[[], None] | None = None

    def drain(self, reason: str = "shutdown") -> None:
        """Stop at the end of the running step; the turn goes on elsewhere."""
        self.run.request_drain(reason)

    def cancel(self, cause: str) -> None:
        """Stop now and keep what was said."""
        if self.cause is None:
            self.cause = cause
            if self._stop is not None:
                self._stop()

    def on_stop(self, stop: Callable[[], None]) -> None:
        """Call `stop` when the turn is cancelled, at once if it is already."""
        self._stop = stop
        if self.cause is not None:
            stop()


async def run_turn(
    entry: GraphEntry,
    turn: TurnInput,
    emitter: Emitter,
    saver: BaseCheckpointSaver[str],
    control: TurnControl,
    *,
    commits: Commits,
) -> RunOutcome:
    """Run a turn in the saver's session that is bound here, until it ends or drains.

    What the graph does wrong becomes an outcome. Raised are only errors of the attempt itself
    (`FencedError`, a lost database or log): then nothing may be committed or said any more.
    Cancelling the caller stops the graph, within `STOP_TIMEOUT_S`, and is passed on.
    """
    attempt = _Attempt(entry, turn, Said(emitter), saver, control, commits)
    run = asyncio.create_task(attempt.run())
    stopping = asyncio.Event()

    def stop() -> None:
        if not run.done():  # one that has ended before has ended all the same
            attempt.stop()
            run.cancel()
            stopping.set()

    control.on_stop(stop)
    try:
        told = asyncio.create_task(stopping.wait())
        await asyncio.wait({run, told}, return_when=asyncio.FIRST_COMPLETED)
        told.cancel()
        if not run.done():
            await asyncio.wait({run}, timeout=STOP_TIMEOUT_S)
    except asyncio.CancelledError:
        stop()
        await asyncio.wait({run}, timeout=STOP_TIMEOUT_S)
        raise
    finally:
        run.add_done_callback(_look_at)
    if commits.lost is not None:
        raise commits.lost
    if stopping.is_set():  # whatever a node made of it: what it did since is stored nowhere
        return await attempt.close(Outcome(status="cancelled", code=control.cause or ""))
    if not run.cancelled() and run.exception() is None:
        return run.result()
    attempt.stop()
    error = asyncio.CancelledError() if run.cancelled() else run.exception()
    return await attempt.close(outcome_of(error or asyncio.CancelledError()))


@dataclass(slots=True)
class _Attempt:
    entry: GraphEntry
    turn: TurnInput
    said: Said
    saver: BaseCheckpointSaver[str]
    control: TurnControl
    commits: Commits

    @property
    def graph(self) -> Pregel[Any, Any, Any, Any]:
        return self.entry.with_saver(self.saver)

    def stop(self) -> None:
        """Hear and store nothing more of what the graph does."""
        self.said.close()
        self.commits.stop()

    async def run(self) -> RunOutcome:
        self.commits.is_last = self.entry.is_last
        config = self.turn.runnable_config()
        try:
            call = self.turn.call(await self._pending(config))
            if self.entry.native:
                await self._run_native(call, config)
            else:
                await self._run_translated(call, config)
        except GraphDrained:
            await self.commits.flush()
            return RunOutcome(outcome=None)
        if self.commits.asked:
            return RunOutcome(outcome=self._interrupted())
        return RunOutcome(outcome=await self._completed(config))

    async def _pending(self, config: RunnableConfig) -> set[str] | None:
        """Return the questions still open, where an earlier attempt may have answered some."""
        if self.turn.kind == "start" or not self.turn.again:
            return None
        return {interrupt.id for interrupt in (await self.graph.aget_state(config)).interrupts}

    async def _run_native(self, call: Any, config: RunnableConfig) -> None:
        make = self.entry.make_context
        async for _ in self.graph.astream(
            call,
            config,
            context=make(self.said, self.turn) if make is not None else None,
            stream_mode=[],
            durability="sync",
            control=self.control.run,
            version="v2",
        ):
            pass

    async def _run_translated(self, call: Any, config: RunnableConfig) -> None:
        commits, ends = self.commits, TaskEnds()
        translator = Translator(
            self.said, finished=commits.finished, step_of=commits.step_of, ended=ends.ended
        )
        commits.gate = ends.wait
        commits.resolve = translator.path_of
        watched: RunnableConfig = {
            **config,
            "configurable": {**config["configurable"], RUNTIME: SigningRuntime()},
            "callbacks": [ToolTasks(translator), RetryWatch(translator, commits)],
        }
        async for item in self.graph.astream(
            call,
            watched,
            stream_mode=list(MODES),
            subgraphs=True,
            durability="sync",
            control=self.control.run,
            version="v2",
        ):
            translator.feed(item)  # no await in this loop: writes would run ahead of their events

    def _interrupted(self) -> Outcome:
        interrupts = []
        for interrupt_id, asked in self.commits.asked.items():
            payload = to_json(asked.value)
            interrupts.append(Interrupt(id=interrupt_id, payload=payload))
            if self.entry.native:  # else the translator has said it
                self.said.emit(
                    InputRequested,
                    path=asked.path,
                    interrupt_id=interrupt_id,
                    payload=payload,
                    ns=asked.namespace,
                )
        return Outcome(status="interrupted", interrupts=interrupts, usage=self.said.usage())

    async def _completed(self, config: RunnableConfig) -> Outcome:
        answer = self.said.answer()
        message_id, text = (answer.message_id, answer.text) if answer else ("", "")
        if answer is None and "messages" in self.graph.channels:
            # an earlier attempt said it
            message_id, text = last_answer((await self.graph.aget_state(config)).values)
        return Outcome(
            status="completed",
            message_id=message_id,
            text=text,
            sha256=text_sha256(text),
            usage=self.said.usage(),
        )

    async def close(self, ended: Outcome) -> RunOutcome:
        """Add what had been said to a turn's end, and the checkpoints that close it."""
        outcome = with_words(ended, self.said)
        if outcome.status == "rejected":
            return RunOutcome(outcome=outcome)
        with suppress(TurnError):  # a state that cannot be stored may be why the turn ends
            await self.commits.flush()
        config = self.turn.runnable_config()
        closing = await closing_calls(
            self.graph,
            self.saver,
            config,
            turn_id=self.turn.turn_id,
            given=self.turn.given,
            said=tuple(self.said.messages.values()),
            why=outcome.status if outcome.status == "cancelled" else outcome.code,
        )
        return RunOutcome(outcome=outcome, closing=closing)


class TaskEnds:
    """Tasks whose last item was translated, for the saver to wait for."""

    def __init__(self, timeout_s: float = TASK_END_TIMEOUT_S) -> None:
        self._timeout_s = timeout_s
        self._ended: set[str] = set()
        self._waiting: dict[str, asyncio.Event] = {}

    def ended(self, task_id: str) -> None:
        """Note the end of a task."""
        self._ended.add(task_id)
        if (event := self._waiting.pop(task_id, None)) is not None:
            event.set()

    async def wait(self, task_id: str) -> None:
        """Wait for the end of a task, but not for ever."""
        if task_id in self._ended:
            return
        event = self._waiting.setdefault(task_id, asyncio.Event())
        try:
            async with asyncio.timeout(self._timeout_s):
                await event.wait()
        except TimeoutError:
            self._waiting.pop(task_id, None)


def _look_at(run: asyncio.Task[RunOutcome]) -> None:
    """Take the error of a run that nobody asks any more, now or when it ends at last."""
    if not run.cancelled():
        run.exception()
