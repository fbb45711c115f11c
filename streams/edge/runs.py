"""A run as the SDK's run-scoped stream shows it: fold changes in, server-sent events out. Pure.

Modes: `values`, `updates`, `messages`, `messages-tuple`, `custom`, `tasks`, `checkpoints`, `debug`,
`tools`. What needs the thread's state comes out as `StateWanted`; the caller reads the state and
passes it to `state_events`. The first record of an attempt gives `metadata` (with the attempt's
number), a failed turn ends with `error`, any other with `end`.

A rewind: each message that was taken back is sent once more as a `remove` message, `metadata` tells
the new attempt's number, and a `values` snapshot restores the truth. New text has new message ids.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import msgspec

from turnstream.schemas.events import (
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
    TurnCancelled,
    TurnCompleted,
    TurnEnded,
    TurnFailed,
    TurnInterrupted,
    TurnRejected,
)
from turnstream.schemas.fold import Verdict
from turnstream.streams.edge.frames import embed
from turnstream.streams.edge.messages import OpenMessage, remove_message, tool_message

if TYPE_CHECKING:
    from collections.abc import Mapping

    from turnstream.schemas.events import Interrupt
    from turnstream.schemas.fold import Change
    from turnstream.schemas.results import Outcome

MODES = frozenset(
    {
        "values",
        "updates",
        "messages",
        "messages-tuple",
        "custom",
        "tasks",
        "checkpoints",
        "debug",
        "tools",
    }
)
STATE_MODES = frozenset({"values", "checkpoints", "debug"})


@dataclass(frozen=True, slots=True)
class RunEvent:
    """One server-sent event: its name and its data, a JSON value (`msgspec.Raw` for JSON text)."""

    event: str
    data: Any


@dataclass(frozen=True, slots=True)
class StateWanted:
    """State belongs here: of one checkpoint, or ("") the last one that the turn wrote.

    `interrupts` are the questions that the turn ended with; `final` says that the turn is over, so
    that the state is there; else its checkpoint may be a moment away, or never come.
    """

    checkpoint_id: str = ""
    step: int = -1
    interrupts: tuple[Interrupt, ...] = ()
    final: bool = False


@dataclass(frozen=True, slots=True)
class Task:
    """A task of the graph, by its start event."""

    node: str
    step: int


@dataclass(slots=True)
class RunProjection:
    """One reader's view of one run; feed it the changes of the run's thread in log order.

    `modes` are those asked for; `subgraphs` shows what nested graphs say too, under the event name
    and their namespace (`updates|node:task`). `about` goes into every message's metadata.
    """

    run_id: str
    modes: frozenset[str]
    subgraphs: bool = False
    about: Mapping[str, Any] = field(default_factory=dict)
    done: bool = False
    status: str = "running"
    attempts: int = 0
    _tasks: dict[str, Task] = field(default_factory=dict)
    _messages: dict[str, OpenMessage] = field(default_factory=dict)
    _metadata: dict[str, dict[str, Any]] = field(default_factory=dict)

    def apply(self, change: Change) -> list[RunEvent | StateWanted]:
        """Return what the change shows, in order; nothing for other turns and void records."""
        record = change.record
        if self.done or not isinstance(record, Event) or record.turn_id != self.run_id:
            return []
        if change.verdict in (Verdict.IGNORED, Verdict.UNKNOWN, Verdict.THREAD, Verdict.GAP):
            return []
        out: list[RunEvent | StateWanted] = []
        if change.dropped:
            self._rewind(change.dropped, out)
        if isinstance(record, AttemptStarted):
            self.attempts += 1
            about = {"run_id": self.run_id, "attempt": self.attempts}
            out.insert(0, RunEvent("metadata", about))
        else:
            self._record(record, out)
        if change.dropped and not self.done and "values" in self.modes:
            out.append(StateWanted())
        return out

    # -- one record ------------------------------------------------------------------------------

    def _record(self, record: Event, out: list[RunEvent | StateWanted]) -> None:
        match record:
            case TokensEmitted():
                self._tokens(record, out)
            case MessageStarted():
                self._messages[record.message_id] = OpenMessage(
                    record.message_id, record.role, record.name, record.path
                )
            case MessageFinished():
                self._message_end(record, out)
            case StepStarted() | StepFinished():
                self._step(record, out)
            case ToolStarted() | ToolProgressed() | ToolFinished() | ToolFailed():
                self._tool(record, out)
            case CustomEmitted():
                payload = raw(record.payload)
                self._put(out, "custom", record.path, payload)
            case CheckpointSaved() if not record.ns and self.modes & STATE_MODES:
                out.append(StateWanted(record.checkpoint_id, record.step))
            case _ if record.terminal:
                self._terminal(record, out)
            case _:
                pass

    def _tokens(self, record: TokensEmitted, out: list[RunEvent | StateWanted]) -> None:
        message = self._messages.get(record.message_id)
        if message is None:  # this reader began in the middle
            message = OpenMessage(record.message_id, "assistant", "", record.path)
            self._messages[record.message_id] = message
        first = not message.blocks
        message.add(record)
        if not self._shown(record.path) or message.role != "assistant":
            return
        metadata = self._metadata_of(record.path)
        if "messages-tuple" in self.modes:
            self._put(out, "messages", record.path, [message.chunk(record), metadata])
        if "messages" in self.modes:
            if first:
                about = {message.message_id: {"metadata": metadata}}
                self._put(out, "messages/metadata", record.path, about)
            self._put(out, "messages/partial", record.path, [message.whole()])

    def _message_end(self, record: MessageFinished, out: list[RunEvent | StateWanted]) -> None:
        message = self._messages.pop(record.message_id, None)
        if message is None:
            return
        message.finish(record)
        metadata = self._metadata_of(message.path)
        if "messages-tuple" in self.modes:
            whole = message.last_chunk() if message.role == "assistant" else message.whole()
            self._put(out, "messages", message.path, [whole, metadata])
        if "messages" in self.modes:
            self._put(out, "messages/complete", message.path, [message.whole()])

    def _step(self, record: StepStarted | StepFinished, out: list[RunEvent | StateWanted]) -> None:
        about: dict[str, Any] = {"id": record.task_id, "name": record.node}
        if isinstance(record, StepStarted):
            self._tasks[record.task_id] = Task(record.node, record.step)
            about |= {"input": None, "triggers": []}
            kind = "task"
        else:
            update = raw(record.update) if record.update else None
            if "updates" in self.modes and not record.error:
                self._put(out, "updates", record.path, {record.node: update})
            about |= {
                "error": record.error or None,
                "interrupts": [],
                "result": update,
            }
            kind = "task_result"
        if "tasks" in self.modes:
            self._put(out, "tasks", record.path, about)
        if "debug" in self.modes:
            data = {"type": kind, "step": record.step, "timestamp": _iso(record.at)}
            self._put(out, "debug", record.path, {**data, "payload": about})

    def _tool(
        self,
        record: ToolStarted | ToolProgressed | ToolFinished | ToolFailed,
        out: list[RunEvent | StateWanted],
    ) -> None:
        if "tools" in self.modes:
            self._put(out, "tools", record.path, _tool_event(record))
        if not isinstance(record, ToolFinished | ToolFailed):
            return
        message = tool_message(record)
        if "messages-tuple" in self.modes:
            self._put(out, "messages", record.path, [message, self._metadata_of(record.path)])
        if "messages" in self.modes:
            self._put(out, "messages/complete", record.path, [message])

    def _terminal(self, record: Event, out: list[RunEvent | StateWanted]) -> None:
        self.status, error = ending(record)
        asked = tuple(record.interrupts) if isinstance(record, TurnInterrupted) else ()
        self._end(error, asked, out)

    def lost(self, outcome: Outcome) -> list[RunEvent | StateWanted]:
        """Return the end of a run whose terminal the log lost, from the ledger's outcome."""
        self.status = run_status(outcome.status, outcome.code)
        failed = outcome.status in ("failed", "rejected")
        out: list[RunEvent | StateWanted] = []
        error = _error(outcome.code, outcome.message) if failed else None
        self._end(error, tuple(outcome.interrupts), out)
        return out

    def _end(
        self,
        error: dict[str, str] | None,
        asked: tuple[Interrupt, ...],
        out: list[RunEvent | StateWanted],
    ) -> None:
        self.done = True
        if error is not None:
            out.append(RunEvent("error", error))
            return
        if asked and "updates" in self.modes:
            out.append(RunEvent("updates", {"__interrupt__": shown(asked)}))
        if "values" in self.modes:
            out.append(StateWanted(interrupts=asked, final=True))
        out.append(RunEvent("end", {"run_id": self.run_id, "status": self.status}))

    # -- rewinds ---------------------------------------------------------------------------------

    def _rewind(self, dropped: tuple[Event, ...], out: list[RunEvent | StateWanted]) -> None:
        """Take back the messages of which something was dropped, and the tasks that began."""
        gone: dict[str, str] = {}
        for item in dropped:
            match item:
                case MessageStarted() | TokensEmitted() | MessageFinished():
                    gone[item.message_id] = item.path
                case StepStarted():
                    self._tasks.pop(item.task_id, None)
                case ToolFinished() | ToolFailed():
                    gone[str(tool_message(item)["id"])] = item.path
                case _:
                    pass
        self._metadata.clear()
        for message_id, path in gone.items():
            self._messages.pop(message_id, None)
            removed = remove_message(message_id)
            if "messages-tuple" in self.modes:
                self._put(out, "messages", path, [removed, self._metadata_of(path)])
            if "messages" in self.modes:
                self._put(out, "messages/complete", path, [removed])

    # -- names -----------------------------------------------------------------------------------

    def _shown(self, path: str) -> bool:
        return self.subgraphs or "|" not in path

    def _put(self, out: list[RunEvent | StateWanted], event: str, path: str, data: Any) -> None:
        """Add an event said at `path`; its mode is the part of its name before a slash."""
        nested = "|" in path
        if nested and not self.subgraphs:
            return
        if event == "custom" and "custom" not in self.modes:
            return
        if nested:
            event = f"{event}|{self._namespace(path.split('|')[:-1])}"
        out.append(RunEvent(event, data))

    def _namespace(self, segments: list[str]) -> str:
        """Return the LangGraph namespace of a path: `node:task` segments joined by a bar."""
        named = []
        for segment in segments:
            task = self._tasks.get(segment)
            named.append(f"{task.node}:{segment}" if task else segment)
        return "|".join(named)

    def _metadata_of(self, path: str) -> dict[str, Any]:
        """Return what goes beside a message said at `path`."""
        known = self._metadata.get(path)
        if known is None:
            segments = path.split("|") if path else []
            task = self._tasks.get(segments[-1]) if segments else None
            namespace = self._namespace(segments)
            known = self._metadata[path] = {
                **self.about,
                "run_id": self.run_id,
                "langgraph_node": task.node if task else "",
                "langgraph_step": task.step if task else -1,
                "langgraph_checkpoint_ns": namespace,
                "checkpoint_ns": namespace,
            }
        return known


def ending(record: Event) -> tuple[str, dict[str, str] | None]:
    """Return the SDK's run status of a terminal, and the error it shows, if it is one."""
    match record:
        case TurnCompleted():
            return "success", None
        case TurnInterrupted() | TurnCancelled():
            return "interrupted", None
        case TurnFailed():
            return run_status("failed", record.code), _error(record.code, record.message)
        case TurnRejected():
            return "error", _error(record.reason, record.message)
        case TurnEnded():
            status = run_status(record.outcome, record.code)
            failed = status in ("error", "timeout")
            return status, _error(record.code, record.message) if failed else None
        case _:  # a terminal of a later version
            return "success", None


def run_status(status: str, code: str = "") -> str:
    """Return the SDK's run status of a turn's: the outcome's, `pending` or `running`."""
    if status in ("pending", "running"):
        return status
    if status in ("failed", "rejected"):
        return "timeout" if code == "expired" else "error"
    return "success" if status == "completed" else "interrupted"


def shown(interrupts: tuple[Interrupt, ...]) -> list[dict[str, Any]]:
    """Return questions as the SDK knows them."""
    return [{"value": raw(one.payload), "id": one.id} for one in interrupts]


def state_events(
    wanted: StateWanted, modes: frozenset[str], state: Mapping[str, Any]
) -> list[RunEvent]:
    """Return what the modes show of a state (in the form of `states.thread_state`)."""
    out: list[RunEvent] = []
    if "values" in modes and (wanted.final or not _is_input(state)):
        values = state["values"]
        if wanted.interrupts and isinstance(values, dict):
            values = {**values, "__interrupt__": shown(wanted.interrupts)}
        out.append(RunEvent("values", values))
    if not wanted.checkpoint_id:
        return out
    payload = {
        "config": {"configurable": state["checkpoint"]},
        "parent_config": (
            {"configurable": state["parent_checkpoint"]} if state["parent_checkpoint"] else None
        ),
        **{key: state[key] for key in ("values", "metadata", "next", "tasks")},
    }
    if "checkpoints" in modes:
        out.append(RunEvent("checkpoints", payload))
    if "debug" in modes:
        about = {"type": "checkpoint", "step": wanted.step, "timestamp": state["created_at"]}
        out.append(RunEvent("debug", {**about, "payload": payload}))
    return out


def _is_input(state: Mapping[str, Any]) -> bool:
    """Tell whether the state is that of an input checkpoint: its values are not applied yet."""
    return (state.get("metadata") or {}).get("source") == "input"


def _error(code: str, message: str) -> dict[str, str]:
    return {"error": code or "failed", "message": message or code or "the turn failed"}


def _iso(at_us: int) -> str:
    return (datetime.fromtimestamp(0, UTC) + timedelta(microseconds=at_us)).isoformat()


def raw(text: str) -> msgspec.Raw:
    """Return JSON text as a value that is embedded as it is."""
    return msgspec.Raw(embed(text))


def _tool_event(record: ToolStarted | ToolProgressed | ToolFinished | ToolFailed) -> dict[str, Any]:
    match record:
        case ToolStarted():
            return {
                "event": "on_tool_start",
                "toolCallId": record.tool_call_id,
                "name": record.name,
                "input": raw(record.args),
            }
        case ToolProgressed():
            data = raw(record.data)
            return {
                "event": "on_tool_event",
                "toolCallId": record.tool_call_id,
                "name": "",
                "data": data,
            }
        case ToolFinished():
            return {
                "event": "on_tool_end",
                "toolCallId": record.tool_call_id,
                "name": record.name,
                "output": record.output,
            }
        case ToolFailed():
            return {
                "event": "on_tool_error",
                "toolCallId": record.tool_call_id,
                "name": record.name,
                "error": {"error": record.code, "message": record.message},
            }
