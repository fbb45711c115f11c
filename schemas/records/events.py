"""Events about a turn: one Struct per event record, mirrored by `avro/<Name>.avsc`.

The `.avsc` files are the truth; a parity test compares names, order, types and defaults. Fields
that hold JSON are JSON text, so that every reader can pass them on without knowing their shape.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import msgspec


class Keep(msgspec.Struct, frozen=True, gc=False):
    """One entry of a `keep` list: events at or under `path`, up to position `n`, stay.

    A path that ends in `|` names what is *under* a task, not the task's own text.
    """

    path: str
    n: int


class Usage(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """Tokens that one model call cost, as the model server counted them.

    `estimated`: the server did not count them; the worker made them from the text's length.
    """

    model: str
    input_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    cached_tokens: int = 0
    estimated: bool = False


class Interrupt(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """A question that a turn ended with; the fields are those of its `InputRequested`."""

    id: str
    payload: str
    response_schema: str = ""
    expires_at: int = 0


class Event(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """The envelope, flat at the top of every event.

    `event_id` is `<turn_id>-<epoch>-<n>`; `n` counts 1, 2, 3 … in its turn; `path` holds the ids of
    the tasks the event lies in, root first, joined by `|` ("" for the turn itself); `at` is
    microseconds since 1970 by the writer's clock and orders nothing.
    """

    terminal: ClassVar[bool] = False

    event_id: str
    tenant: str
    thread_id: str
    turn_id: str
    epoch: int
    n: int
    path: str = ""
    at: int = 0
    actor: str = ""
    traceparent: str = ""


class AttemptStarted(Event, frozen=True, gc=False, kw_only=True):
    """The fence: from here on, events of a lower epoch are void. Its `n` is `high_n`.

    `decided`: the turn has its outcome, of the attempt `base`; only its terminal follows. So it
    does where the ledger decided, which is no attempt: such a start says `first` or `again`.
    `config_hash` is the version of the graph: a hash of its code, and for the built-in agent of its
    settings and tools too.
    """

    reason: Literal["first", "again", "decided"]
    base: int
    keep_n: int
    high_n: int
    keep: list[Keep] = msgspec.field(default_factory=list)
    worker: str = ""
    graph: str = ""
    input_sha256: str = ""
    source_topic: str = ""
    source_partition: int = -1
    source_offset: int = -1
    config_hash: str = ""


class StepStarted(Event, frozen=True, gc=False, kw_only=True):
    """A task of the graph began.

    `ns` is the LangGraph namespace of the graph that it runs in ("" for the root). `input` is JSON
    text, "" where it is unknown or too large to carry. `metadata` is what the mode `tasks` shows
    beside it, as JSON text.
    """

    step: int
    node: str
    task_id: str
    ns: str = ""
    input: str = ""
    triggers: list[str] = msgspec.field(default_factory=list)
    metadata: str = ""


class StepFinished(Event, frozen=True, gc=False, kw_only=True):
    """A task ended.

    `update` is JSON text: what the mode `updates` shows of it, "" where that is too large to carry.
    `result` is what the mode `tasks` shows, where that is not the same. `interrupts` holds the
    questions that it stopped with, as a JSON list: then it has no update. `messages` names those
    that graphs inside of it said and that it returned.
    """

    step: int
    node: str
    task_id: str
    update: str = ""
    error: str = ""
    result: str = ""
    interrupts: str = ""
    messages: list[str] = msgspec.field(default_factory=list)


class MessageStarted(Event, frozen=True, gc=False, kw_only=True):
    """A message begins; its tokens follow.

    `metadata` is LangGraph's own of the message as JSON text, where a graph was brought;
    `tool_call_id` is the call that a tool's message answers; `listed`: its content is a list of
    blocks in LangChain, not one text; `whole`: a node returned it, no model streamed it.
    """

    message_id: str
    role: Literal["assistant", "tool", "user", "system"] = "assistant"
    name: str = ""
    metadata: str = ""
    tool_call_id: str = ""
    listed: bool = False
    whole: bool = False


class TokensEmitted(Event, frozen=True, gc=False, kw_only=True):
    """Tokens of a block of a message; `tool_call_id` and `tool_name` come with a call's first."""

    message_id: str
    block: int
    kind: Literal["text", "reasoning", "tool_args"]
    text: str
    tool_call_id: str = ""
    tool_name: str = ""


class MessageFinished(Event, frozen=True, gc=False, kw_only=True):
    """A message is whole; `sha256` (hex) is over the UTF-8 of its text blocks in order.

    `extra`: the fields of LangChain's message that its blocks do not tell, as a JSON object, or "".
    """

    message_id: str
    finish_reason: str = ""
    usage: Usage | None = None
    sha256: str = ""
    request_sha256: str = ""
    params: str = ""
    extra: str = ""


class TaskRetried(Event, frozen=True, gc=False, kw_only=True):
    """The task at `path` runs again in this attempt: readers remove its items, except `keep`."""

    keep: list[Keep] = msgspec.field(default_factory=list)
    attempt: int = 2
    error: str = ""


class ToolStarted(Event, frozen=True, gc=False, kw_only=True):
    """A tool is called; `args` is JSON text."""

    tool_call_id: str
    name: str
    args: str = ""


class ToolProgressed(Event, frozen=True, gc=False, kw_only=True):
    """A tool reports progress; `data` is JSON text."""

    tool_call_id: str
    data: str


class ToolFinished(Event, frozen=True, gc=False, kw_only=True):
    """A tool returned; `output` is the text that the model sees.

    `message_id` is the id that its message has in the state; `apart`: the message, if it makes one,
    is said as a message of its own. With neither, the writer was of an earlier version.
    """

    tool_call_id: str
    name: str
    output: str
    message_id: str = ""
    apart: bool = False


class ToolFailed(Event, frozen=True, gc=False, kw_only=True):
    """A tool did not return a result; `message` is what the model sees.

    `message_id` and `apart` as in `ToolFinished`.
    """

    tool_call_id: str
    name: str
    code: str
    message: str
    message_id: str = ""
    apart: bool = False


class InputRequested(Event, frozen=True, gc=False, kw_only=True):
    """The graph asks the user; `payload` and `response_schema` are JSON text.

    `response_schema`: a JSON schema of the answer, or "". `expires_at`: microseconds since 1970,
    0: never. The questions of a turn expire together, when the first of them does.
    """

    interrupt_id: str
    payload: str
    response_schema: str = ""
    expires_at: int = 0
    ns: str = ""


class CheckpointSaved(Event, frozen=True, gc=False, kw_only=True):
    """A checkpoint is about to be committed; `ns` is its LangGraph namespace ("" for the root).

    `source`: `input` for the one that holds a run's input, which is not applied yet, else `loop`.
    """

    checkpoint_id: str
    parent_id: str = ""
    step: int = -1
    ns: str = ""
    source: str = "loop"


class CustomEmitted(Event, frozen=True, gc=False, kw_only=True):
    """A graph wrote to its stream writer; `payload` is JSON text."""

    name: str
    payload: str


class TurnCompleted(Event, frozen=True, gc=False, kw_only=True):
    """Terminal: the graph ended; `text` is the last assistant message's."""

    terminal: ClassVar[bool] = True

    message_id: str = ""
    text: str = ""
    sha256: str = ""
    usage: list[Usage] = msgspec.field(default_factory=list)


class TurnInterrupted(Event, frozen=True, gc=False, kw_only=True):
    """Terminal: the graph waits for answers."""

    terminal: ClassVar[bool] = True

    interrupts: list[Interrupt] = msgspec.field(default_factory=list)
    usage: list[Usage] = msgspec.field(default_factory=list)


class TurnCancelled(Event, frozen=True, gc=False, kw_only=True):
    """Terminal: the turn was stopped; `text` is its text so far.

    `cause` is `cancel`, or `interrupt` or `rollback`: the policy of a later turn. A turn that was
    rolled back has no text, and readers show nothing of it.
    """

    terminal: ClassVar[bool] = True

    cause: str
    text: str = ""
    sha256: str = ""
    usage: list[Usage] = msgspec.field(default_factory=list)


class TurnRejected(Event, frozen=True, gc=False, kw_only=True):
    """Terminal: the turn was claimed and could not run, for example a late answer."""

    terminal: ClassVar[bool] = True

    reason: str
    message: str = ""


class TurnFailed(Event, frozen=True, gc=False, kw_only=True):
    """Terminal: the turn failed; `code` is stable, `message` is for people."""

    terminal: ClassVar[bool] = True

    code: str
    retryable: bool = False
    message: str = ""
    text: str = ""
    usage: list[Usage] = msgspec.field(default_factory=list)


class TurnEnded(Event, frozen=True, gc=False, kw_only=True):
    """Start and terminal in one, of a turn that ended before it was claimed. Its `n` is 1."""

    terminal: ClassVar[bool] = True

    outcome: Literal["completed", "interrupted", "cancelled", "rejected", "failed"]
    code: str = ""
    message: str = ""


class InputResolved(Event, frozen=True, gc=False, kw_only=True):
    """Thread event: an interrupt is no longer open; the highest `rev` counts.

    `actor` is the caller that answered, or `superseded` (another turn came), or `expired`. `epoch`
    and `n` are 0: no rewind takes it back.
    """

    interrupt_id: str
    rev: int


class UnknownEvent(msgspec.Struct, frozen=True, kw_only=True):
    """A record of a type that this version does not know; readers keep it and go on."""

    type: str
    data: bytes


THREAD_EVENTS: tuple[type[Event], ...] = (InputResolved,)
EVENTS: tuple[type[Event], ...] = (
    AttemptStarted,
    StepStarted,
    StepFinished,
    MessageStarted,
    TokensEmitted,
    MessageFinished,
    TaskRetried,
    ToolStarted,
    ToolProgressed,
    ToolFinished,
    ToolFailed,
    InputRequested,
    CheckpointSaved,
    CustomEmitted,
    TurnCompleted,
    TurnInterrupted,
    TurnCancelled,
    TurnRejected,
    TurnFailed,
    TurnEnded,
    InputResolved,
)
