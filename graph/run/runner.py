"""One attempt at one turn: runs the graph and says what came of it.

Every attempt makes the same call; LangGraph goes on where the checkpoints stand. Graphs that emit
themselves run without stream modes; others go through `translate.py`.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from contextvars import Context, copy_context
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from langgraph.errors import GraphDrained
from langgraph.runtime import RunControl

from turnstream.graph.langgraph import nested_retries, node_exits, tool_answers, unheard, wait_for
from turnstream.graph.langgraph.factories import Use
from turnstream.graph.langgraph.run_context import run_context
from turnstream.graph.langgraph.translate import MODES, Translator
from turnstream.graph.langgraph.watch import RUNTIME, Prompts, RetryWatch, SigningRuntime, ToolTasks
from turnstream.graph.recorded import record_with
from turnstream.graph.run.closing import closing_calls
from turnstream.graph.run.deadlines import TurnLimits, overrun
from turnstream.graph.run.ending import drop_frames, last_answer, outcome_of, text_in, with_words
from turnstream.graph.run.input import RECURSION_LIMIT_MAX
from turnstream.graph.run.interrupting import RUNNING
from turnstream.graph.run.questions import asked_fields
from turnstream.graph.run.said import Said
from turnstream.graph.run.stopped_calls import say_stopped
from turnstream.schemas.errors import GraphError, TurnError, TurnstreamError
from turnstream.schemas.ids import path_of_namespace
from turnstream.schemas.records.events import InputRequested
from turnstream.schemas.records.results import Carried, Outcome
from turnstream.schemas.text import clean_text, text_sha256
from turnstream.schemas.unexpected import note

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence

    from langchain_core.runnables import RunnableConfig
    from langgraph.checkpoint.base import BaseCheckpointSaver, Checkpoint

    from turnstream.graph.langgraph.catalog import GraphEntry
    from turnstream.graph.langgraph.factories import Access, AnyPregel
    from turnstream.graph.ports.commits import Commits, SaverCall
    from turnstream.graph.ports.emitter import Emitter
    from turnstream.graph.run.input import TurnInput
    from turnstream.schemas.records.events import Keep

nested_retries.install()
wait_for.install()
tool_answers.install()
unheard.install()

T = TypeVar("T")

_NOTHING = Carried()

STOP_TIMEOUT_S = 5.0
"""For tasks that were told to stop; code in threads cannot be, and is left behind."""

CLOSE_TIMEOUT_S = 10.0
"""For the checkpoints that close a turn: the graph's own reducers and routes run there."""

TASK_END_TIMEOUT_S = 1.0
"""For a task's end to come through the stream before its writes are stored without it; only nodes
that LangGraph hides have none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOutcome:
    """What an attempt came to: `outcome` to commit with `closing`, or None if it was drained.

    `instead`: what it comes to if the ledger will not have the outcome, because the turn was told
    to stop (with this cause) before it could be stored.
    """

    outcome: Outcome | None
    closing: tuple[SaverCall, ...] = ()
    instead: Callable[[str], Awaitable[RunOutcome]] | None = None


class TurnControl:
    """The way to stop a run from outside; each call takes effect once, from the loop's thread."""

    def __init__(self, turn_id: str = "") -> None:
        self.turn_id = turn_id
        self.run = RunControl()
        self.cause: str | None = None
        self.failure: TurnError | None = None
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

    def fail(self, error: TurnError) -> None:
        """Stop now and end as failed, whatever the graph makes of being stopped."""
        if self.failure is None:
            self.failure = error
            if self._stop is not None:
                self._stop()

    def let_go(self) -> None:
        """Stop nothing any more; what was to be stopped is over."""
        self._stop = None

    def on_stop(self, stop: Callable[[], None]) -> None:
        """Call `stop` when the turn is cancelled or failed, at once if it is already."""
        self._stop = stop
        if self.cause is not None or self.failure is not None:
            stop()


async def run_turn(
    entry: GraphEntry,
    turn: TurnInput,
    emitter: Emitter,
    saver: BaseCheckpointSaver[str],
    control: TurnControl,
    *,
    commits: Commits,
    limits: TurnLimits = TurnLimits(),  # noqa: B008  frozen
) -> RunOutcome:
    """Run a turn in the saver's session that is bound here, until it ends or drains.

    What the graph does wrong becomes an outcome. Raised are only errors of the attempt itself
    (`FencedError`, a lost database or log): then nothing may be committed or said any more.
    Cancelling the caller stops the graph, within `STOP_TIMEOUT_S`, and is passed on.
    """
    said = Said(emitter, turn.carried)
    attempt = _Attempt(entry, turn, said, saver, control, commits, limits.recursion_limit_max)
    run = asyncio.create_task(attempt.run(), context=attempt.context)
    told: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def stop() -> None:
        if not run.done():  # one that has ended before has ended all the same
            attempt.stop()
            run.cancel()
            if not told.done():
                told.set_result(None)

    control.on_stop(stop)
    try:
        late = await overrun({run, told}, limits, lambda: commits.progress.stepped_at)
        if late is not None:
            attempt.stop()
            run.cancel()
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
    late = late or control.failure
    if late is not None:
        ended = await attempt.close(outcome_of(late))
        return replace(ended, instead=attempt.cancelled)
    if told.done():  # whatever a node made of it: what it did since is stored nowhere
        return await attempt.cancelled(control.cause or "")
    if not run.cancelled() and run.exception() is None:
        return replace(run.result(), instead=attempt.cancelled)
    attempt.stop()
    error = asyncio.CancelledError() if run.cancelled() else run.exception()
    ended = await attempt.close(attempt.failed(error or asyncio.CancelledError()))
    drop_frames(error)
    return replace(ended, instead=attempt.cancelled)


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
    said = Said(emitter, turn.carried)
    attempt = _Attempt(entry, turn, said, saver, TurnControl(), commits)
    attempt.stop()
    return replace(await attempt.close(ended), instead=attempt.cancelled)


@dataclass(slots=True)
class _Attempt:
    entry: GraphEntry
    turn: TurnInput
    said: Said
    saver: BaseCheckpointSaver[str]
    control: TurnControl
    commits: Commits
    steps_max: int = RECURSION_LIMIT_MAX
    graph: AnyPregel | None = None  # once it is made
    values: Any = None  # of the last root checkpoint
    unmade: bool = False  # its factory failed
    tools: ToolTasks | None = None
    translator: Translator | None = None
    ends: TaskEnds | None = None
    ends_after: Callable[[Checkpoint], bool] | None = None
    askers: dict[str, str] = field(default_factory=dict)
    stopped: set[str] = field(default_factory=set)  # ids of tool calls stopped in the middle
    context: Context = field(default_factory=copy_context)

    def __post_init__(self) -> None:
        if not self.entry.native:
            self.context.run(node_exits.enter)
        self.commits.follow(self)

    def stop(self) -> None:
        """Hear and store nothing more of what the graph does."""
        self.said.close()
        self.commits.stop()

    async def run(self) -> RunOutcome:
        RUNNING.set(self.control)
        outcome: RunOutcome | None = None
        try:
            async with self.entry.opened(self._use("threads.create_run"), self.saver) as graph:
                self.graph = graph
                outcome = await self._run(graph)
        except TurnstreamError:
            raise
        except Exception as error:
            self.unmade = self.graph is None
            if outcome is None:
                raise
            # what the factory cleans up behind itself does not change what the turn came to
            note("graph_exit", error, turn=self.turn.turn_id, graph=self.entry.name)
        return outcome

    def _use(self, access: Access) -> Use:
        if self.entry.factory is None:  # no factory reads it
            return Use(access=access)
        config = self.turn.runnable_config(limit_max=self.steps_max)
        return Use(access=access, config=config, context=self.turn.context or None)

    async def _run(self, graph: AnyPregel) -> RunOutcome:
        self.ends_after = self.entry.is_last_of(graph)
        limit = (graph.config or {}).get("recursion_limit")
        config = self.turn.runnable_config(limit=limit, limit_max=self.steps_max)
        try:
            call = self.turn.call(await self._pending(graph, config))
            if self.entry.native:
                await self._run_native(graph, call, config)
            else:
                await self._run_translated(graph, call, config)
        except GraphDrained:
            await self.commits.flush()
            return RunOutcome(outcome=None)
        if self.commits.asked:
            return RunOutcome(outcome=self._interrupted())
        return RunOutcome(outcome=await self._completed(graph, config))

    # What the saver's session asks (graph/ports/commits.py: RunFacts).

    def path_of(self, namespace: str) -> str:
        if self.translator is None:
            return path_of_namespace(namespace)
        return self.translator.path_of(namespace)

    async def task_ended(self, task_id: str) -> None:
        if self.ends is not None:
            await self.ends.wait(task_id)

    def is_last(self, checkpoint: Checkpoint) -> bool:
        if self.ends_after is None:
            return False
        self.values = checkpoint["channel_values"]
        return self.ends_after(checkpoint)

    def carried(self, keep_n: int, keep: Sequence[Keep]) -> bytes | None:
        carried = self.said.carried(keep_n, keep)
        return msgspec.json.encode(carried) if carried != _NOTHING else None

    async def _pending(self, graph: AnyPregel, config: RunnableConfig) -> set[str] | None:
        """Return the questions still open, where an earlier attempt may have answered some."""
        if self.turn.kind == "start" or not self.turn.again:
            return None
        return {interrupt.id for interrupt in (await graph.aget_state(config)).interrupts}

    async def _run_native(self, graph: AnyPregel, call: Any, config: RunnableConfig) -> None:
        make = self.entry.make_context
        async for _ in graph.astream(
            call,
            config,
            context=make(self.said, self.turn, self.commits) if make else None,
            stream_mode=[],
            durability="sync",
            control=self.control.run,
            version="v2",
        ):
            pass

    async def _run_translated(self, graph: AnyPregel, call: Any, config: RunnableConfig) -> None:
        progress, ends = self.commits.progress, TaskEnds()
        record_with(self.commits.tool_calls)
        translator = Translator(
            self.said,
            finished=progress.finished,
            stored=progress.stored,
            step_of=progress.step_of,
            ended=ends.ended,
        )
        self.translator, self.ends = translator, ends
        runtime = SigningRuntime(store=graph.store)
        self.tools = ToolTasks(translator)
        watched: RunnableConfig = {
            **config,
            "configurable": {**config["configurable"], RUNTIME: runtime},
            "callbacks": [
                self.tools,
                Prompts(translator),
                RetryWatch(translator, self.commits),
            ],
        }
        async for item in graph.astream(
            call,
            watched,
            context=run_context(graph.context_schema, self.turn.context, self.turn.configurable),
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
            if interrupt_id not in self.said.questions:  # the translator says it by itself
                self.said.emit(
                    InputRequested,
                    path=asked.path,
                    interrupt_id=interrupt_id,
                    ns=asked.namespace,
                    **asked_fields(asked.interrupt.value, asked.interrupt.response_schema),
                )
            interrupts.append(self.said.questions[interrupt_id])
            if self.tools is not None and (call := self.tools.asker_of(asked.interrupt)):
                self.askers[interrupt_id] = call
        return Outcome(
            status="interrupted",
            interrupts=interrupts,
            usage=self.said.usage(),
            lost_usage=self.said.lost_usage(),
        )

    async def _completed(self, graph: AnyPregel, config: RunnableConfig) -> Outcome:
        """Return the outcome; the answer of a brought graph is what its state ends with."""
        message_id, text = "", ""
        if not self.entry.native:
            message_id, text = last_answer(self.values)
        answer = None if text else self.said.answer()
        if answer is not None:
            message_id, text = answer.message_id, clean_text(answer.text)
        if not text and "messages" in graph.channels:
            # an earlier attempt said it
            message_id, text = last_answer((await graph.aget_state(config)).values)
        return Outcome(
            status="completed",
            message_id=message_id,
            text=text,
            sha256=text_sha256(text),
            usage=self.said.usage(),
            lost_usage=self.said.lost_usage(),
        )

    def failed(self, error: BaseException) -> Outcome:
        """Return the outcome of an error that the run raised."""
        return outcome_of(
            error,
            input_refused=self.turn.kind == "start"
            and not self.commits.progress.applied
            and not self.unmade,
            turn=self.turn.turn_id,
            graph=self.entry.name,
        )

    async def cancelled(self, cause: str) -> RunOutcome:
        """Return what the turn comes to that was told to stop."""
        if cause == "rollback":  # nothing of it stays
            return RunOutcome(
                outcome=Outcome(
                    status="cancelled",
                    code=cause,
                    usage=self.said.usage(),
                    lost_usage=self.said.lost_usage(),
                )
            )
        if cause == "expired":
            why = "the turn expired while it ran"
            ended = Outcome(status="failed", code=cause, message=why)
        else:
            ended = Outcome(status="cancelled", code=cause)
        return replace(await self.close(ended), instead=self.cancelled)

    async def close(self, ended: Outcome) -> RunOutcome:
        """Add what had been said to a turn's end, and the checkpoints that close it."""
        outcome = with_words(ended, self.said)
        if outcome.status == "rejected":
            return RunOutcome(outcome=outcome)
        if not outcome.text and self.said.last_before:
            outcome = await self._contained(self._with_words_before(outcome)) or outcome
        with suppress(TurnError):  # a state that cannot be stored may be why the turn ends
            await self.commits.flush()
        why = outcome.status if outcome.status == "cancelled" else outcome.code
        earlier = self.turn.again or self.turn.kind == "resume"
        ledger = self.commits.tool_calls
        await say_stopped(
            ledger,
            self.said,
            self.stopped,
            turn_id=self.turn.turn_id,
            why=why,
            earlier=earlier,
        )
        calls = await self._contained(self._closing_calls(outcome.code, why)) or ()
        return RunOutcome(outcome=outcome, closing=calls)

    async def _closing_calls(self, code: str, why: str) -> tuple[SaverCall, ...]:
        if self.unmade:
            return ()
        async with self._made() as graph:
            return await closing_calls(
                graph,
                self.saver,
                self.turn.runnable_config(),
                turn_id=self.turn.turn_id,
                given=self.turn.given,
                said=tuple(self.said.messages.values()),
                why=why,
                unknown=self.stopped,
                open_ended=code == GraphError.code and not self.entry.native,
            )

    async def _with_words_before(self, outcome: Outcome) -> Outcome:
        """Add what an earlier attempt said last, where this one said nothing."""
        if self.unmade:
            return outcome
        message_id = self.said.last_before
        async with self._made() as graph:
            state = await graph.aget_state(self.turn.runnable_config(), subgraphs=True)
        text = text_in(state, message_id)
        return msgspec.structs.replace(
            outcome, message_id=message_id if text else "", text=text, sha256=text_sha256(text)
        )

    @asynccontextmanager
    async def _made(self) -> AsyncIterator[AnyPregel]:
        """Give the graph that ran, also when its factory has cleaned up, or else one to close."""
        if self.graph is not None:
            yield self.graph
        else:
            async with self.entry.opened(self._use("threads.update"), self.saver) as graph:
                yield graph

    async def _contained(self, work: Coroutine[Any, Any, T]) -> T | None:
        """Do what runs the graph's own reducers, validators and routes; None where they fail."""
        task = asyncio.create_task(work, context=self.context.copy())
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                return await task
        except TurnstreamError:
            raise
        except Exception as error:  # noqa: BLE001  the turn has come to its end all the same
            note("closing", error, turn=self.turn.turn_id, graph=self.entry.name)
            return None


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
