"""A run in the SDK's run-scoped stream: changes of the fold in, server-sent events out. Pure.

Modes: `values`, `updates`, `messages`, `messages-tuple`, `custom`, `tasks`, `checkpoints`, `debug`,
`tools`. A place for the thread's state comes out as `StateWanted`; the caller reads the state and
passes it to `state_events`. Each attempt begins with `metadata` and the attempt's number. A failed
turn ends with `error`, any other with `end`.

If the log has lost the run's beginning, or the cursor is void, `reset` comes first. What the client
has is void then, `values` are the truth, and only messages that began later are shown.

On a rewind, each message that was taken back comes once more as a `remove` message, `metadata` has
the new attempt's number, and a `values` snapshot shows the truth. New text has new message ids.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from turnstream.schemas.fold.fold import Verdict
from turnstream.schemas.records.events import (
    AttemptStarted,
    CheckpointSaved,
    CustomEmitted,
    Event,
    MessageFinished,
    MessageStarted,
    StepFinished,
    StepStarted,
    TokensEmitted,
    ToolFailed,
    ToolFinished,
    ToolProgressed,
    ToolStarted,
    TurnInterrupted,
)
from turnstream.streams.edge.surfaces.encoding import encode
from turnstream.streams.edge.surfaces.run_endings import ending, error_shown, run_status, shown
from turnstream.streams.edge.surfaces.run_events import (
    CHECKPOINT_MODES,
    RunEvent,
    RunItem,
    StateWanted,
    TaskWanted,
    raw,
)
from turnstream.streams.edge.surfaces.run_messages import RunMessages
from turnstream.streams.edge.surfaces.run_states import INTERRUPT, RunStates
from turnstream.streams.edge.surfaces.run_tasks import (
    Tasks,
    debugged,
    task_ended,
    task_started,
    task_update,
)
from turnstream.streams.edge.surfaces.run_tools import tool_event

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from turnstream.schemas.fold.fold import Change
    from turnstream.schemas.records.events import Interrupt
    from turnstream.schemas.records.results import Outcome
    from turnstream.streams.edge.surfaces.run_messages import Said


PUSH = "__pregel_push"
TASK_MODES = frozenset({"tasks", "debug"})


@dataclass(slots=True)
class RunProjection:
    """One reader's view of one run; `apply` takes the changes of its thread in log order.

    - `modes`: those that the reader asked for;
    - `subgraphs`: also show nested graphs, with their namespace in an event's name
      (`updates|node:task`);
    - `resumed`: the run answers questions;
    - `about`: goes into every message's metadata;
    - `shown`: the checkpoint whose values were shown last, set by the caller;
    - `questions`: those with which the run ended, as a JSON list.
    """

    run_id: str
    modes: frozenset[str]
    subgraphs: bool = False
    resumed: bool = False
    about: Mapping[str, object] = field(default_factory=dict)
    done: bool = False
    status: str = "running"
    attempts: int = 0
    shown: str = ""
    questions: str = ""
    _values: str = ""
    _asked: bool = False
    _states: RunStates = field(init=False)
    _tasks: Tasks = field(init=False)
    _messages: RunMessages = field(init=False)

    def __post_init__(self) -> None:
        """Begin with no task and no message."""
        self._states = RunStates(self.resumed)
        self._tasks = Tasks({**self.about, "run_id": self.run_id})
        self._messages = RunMessages(self.modes, self._tasks, keep_nested=not self.subgraphs)

    def apply(self, change: Change) -> list[RunItem]:
        """Return what a change shows, in order; nothing for other turns and void records."""
        record = change.record
        if self.done or not isinstance(record, Event) or record.turn_id != self.run_id:
            return []
        if change.verdict in (Verdict.IGNORED, Verdict.UNKNOWN, Verdict.THREAD, Verdict.GAP):
            return []
        self._messages.partial = change.turn is not None and change.turn.partial
        out: list[RunItem] = []
        if change.dropped:
            self._rewind(change.dropped, out)
        if isinstance(record, AttemptStarted):
            self.attempts += 1
            self._states.anew()
            about = {"run_id": self.run_id, "attempt": self.attempts}
            out.insert(0, RunEvent("metadata", about))
        else:
            self._record(record, out)
        if change.dropped and not self.done and "values" in self.modes:
            out.append(StateWanted())
        return out

    def _record(self, record: Event, out: list[RunItem]) -> None:
        match record:
            case TokensEmitted():
                if self._shown(record.path):
                    self._say(self._messages.tokens(record), out)
                else:
                    self._messages.take(record)
            case MessageStarted():
                self._messages.began(record)
            case MessageFinished():
                self._say(self._messages.ended(record), out)
            case StepStarted():
                self._started(record, out)
            case StepFinished():
                self._finished(record, out)
            case ToolStarted() | ToolProgressed() | ToolFinished() | ToolFailed():
                self._tool(record, out)
            case CustomEmitted():
                payload = raw(record.payload)
                self._put(out, "custom", record.path, payload)
            case CheckpointSaved():
                self._state(self._states.saved(record), out)
            case _ if record.terminal:
                self._terminal(record, out)
            case _:
                pass

    def _started(self, record: StepStarted, out: list[RunItem]) -> None:
        self._tasks.began(record)
        self._state(self._states.began(record, self._tasks.space(record.path)), out)
        about = task_started(record)
        if not record.input and record.triggers:
            self._large(record, about, None, out)
        self._task(record, about, out)

    def _finished(self, record: StepFinished, out: list[RunItem]) -> None:
        if not self.subgraphs:
            self._say(self._messages.returned(record), out)
        about, update = task_ended(record), task_update(record)
        if not (record.update or record.error or record.interrupts):
            self._large(record, about, update, out)
        if "updates" in self.modes and not record.error:
            self._put(out, "updates", record.path, update)
        self._asked = self._asked or bool(record.interrupts)
        self._task(record, about, out)

    def _task(
        self, record: StepStarted | StepFinished, about: dict[str, object], out: list[RunItem]
    ) -> None:
        if "tasks" in self.modes:
            self._put(out, "tasks", record.path, about)
        if isinstance(record, StepFinished):
            self._state(self._states.ended(record, self._tasks.space(record.path)), out)
        if "debug" in self.modes:
            self._put(out, "debug", record.path, debugged(record, about))

    def _large(
        self,
        record: StepStarted | StepFinished,
        about: dict[str, object],
        update: dict[str, object] | None,
        out: list[RunItem],
    ) -> None:
        """Ask for a task's large input or result, if it is shown."""
        wanted = TASK_MODES if update is None else TASK_MODES | {"updates"}
        if self.modes & wanted and self._shown(record.path):
            ns = self._tasks.space(record.path)
            last = self._states.last(ns)
            sent = isinstance(record, StepStarted) and PUSH in record.triggers
            wants = TaskWanted(last, ns, record.node, record.task_id, about, update, sent)
            out.append(wants)

    def _state(self, wanted: StateWanted | None, out: list[RunItem]) -> None:
        if wanted is None or (wanted.ns and not self.subgraphs):
            return
        if not (self.modes & CHECKPOINT_MODES or ("values" in self.modes and wanted.values)):
            return
        if not wanted.ns and wanted.values:
            self._values = wanted.checkpoint_id or "-"
        out.append(wanted)

    def _tool(
        self,
        record: ToolStarted | ToolProgressed | ToolFinished | ToolFailed,
        out: list[RunItem],
    ) -> None:
        if "tools" in self.modes:
            self._put(out, "tools", record.path, tool_event(record))
        if isinstance(record, ToolFinished | ToolFailed):
            self._say(self._messages.tool(record), out)

    def _terminal(self, record: Event, out: list[RunItem]) -> None:
        self.status, error = ending(record)
        asked = tuple(record.interrupts) if isinstance(record, TurnInterrupted) else ()
        self._end(error, asked, out)

    def reset(self) -> list[RunItem]:
        """Return the items that void all earlier ones."""
        out: list[RunItem] = [RunEvent("reset", {"run_id": self.run_id})]
        if "values" in self.modes:
            out.append(StateWanted())
        return out

    def lost(self, outcome: Outcome) -> list[RunItem]:
        """Return the end of a run from the ledger's outcome; the log has lost its terminal."""
        self.status = run_status(outcome.status, outcome.code)
        failed = outcome.status in ("failed", "rejected")
        out: list[RunItem] = []
        error = error_shown(outcome.code, outcome.message) if failed else None
        self._end(error, tuple(outcome.interrupts), out)
        return out

    def _end(
        self,
        error: dict[str, str] | None,
        asked: tuple[Interrupt, ...],
        out: list[RunItem],
    ) -> None:
        self.done = True
        if error is not None:
            out.append(RunEvent("error", error))
            return
        if asked and not self._asked and "updates" in self.modes:  # no task showed them
            out.append(RunEvent("updates", {INTERRUPT: shown(asked)}))
        self.questions = encode(shown(asked)).decode() if asked else ""
        if "values" in self.modes and not self._is_shown(asked):
            out.append(StateWanted(asked=self.questions, final=True))
        out.append(RunEvent("end", {"run_id": self.run_id, "status": self.status}))

    def _is_shown(self, asked: tuple[Interrupt, ...]) -> bool:
        """Return whether the values with which the run ends were shown last."""
        if asked:
            return self._asked
        return self.status == "success" and bool(self._values) and self.shown == self._values

    def _rewind(self, dropped: tuple[Event, ...], out: list[RunItem]) -> None:
        """Take back messages of which something was dropped, and started tasks."""
        for item in dropped:
            if isinstance(item, StepStarted):
                self._tasks.undone(item)
        self._say(self._messages.taken_back(dropped), out)

    def _say(self, said: Iterable[Said], out: list[RunItem]) -> None:
        for event, path, data in said:
            self._put(out, event, path, data)

    def _shown(self, path: str) -> bool:
        return self.subgraphs or "|" not in path

    def _put(self, out: list[RunItem], event: str, path: str, data: object) -> None:
        """Add an event of a record at `path`; its mode is its name up to a slash."""
        nested = "|" in path
        if nested and not self.subgraphs:
            return
        if event == "custom" and "custom" not in self.modes:
            return
        if nested and not event.startswith("messages/"):  # LangGraph's server names none
            event = f"{event}|{self._tasks.space(path)}"
        out.append(RunEvent(event, data))
