"""Changes of the fold to events of the Agent Streaming Protocol (`langchain-protocol`). Pure.

The same records give the same events with the same ids and numbers at every edge and every replay,
as long as the fold began at the start of a turn. What the stock SDKs make of an event decides its
form here:

- a run begins with a root lifecycle `running`, and ends with `completed` or `failed` and nothing
  else; a cancelled turn is `failed` with error `cancelled`; open messages are closed before;
- the id of a root lifecycle event is `synth:<run id>:...`, as the agent server has it: by it the
  JavaScript SDK knows whose end it sees, and takes no other for the end of what it asked for;
- a turn that ended unclaimed while another one ran is `failed` after that one's end: most clients
  take any root `failed` for the end of what runs;
- a rewind is an `error` for each message that was open, a `values` snapshot, and a new message id;
- `input.requested` is said once for an id, at the turn's end, for it pauses the SDK's iterators;
  `input.answered` says that a question is not open any more, whoever or whatever closed it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from turnstream.schemas.fold.fold import Verdict
from turnstream.schemas.records.events import (
    AttemptStarted,
    Event,
    InputResolved,
    TokensEmitted,
    TurnCancelled,
    TurnCompleted,
    TurnEnded,
    TurnFailed,
    TurnInterrupted,
    TurnRejected,
)
from turnstream.streams.edge.deliver.frames import ProtocolEvent, embed, json_bytes
from turnstream.streams.edge.follow.cursor import RECORD_EVENTS_MAX, first_seq
from turnstream.streams.edge.surfaces.protocol_turn import (
    ROOT,
    SPEAK,
    OpenTurn,
    closings,
    lifecycle,
    rewound,
    snapshot,
    tokens,
)

if TYPE_CHECKING:
    from turnstream.schemas.fold.fold import Change
    from turnstream.streams.edge.surfaces.protocol_message import Draft

# ends of other turns that wait for the end of the one that runs
UNSAID_MAX = 32


class Projection:
    """The protocol's view of one thread. Feed it every change of one fold, in order."""

    def __init__(self, incarnation: int) -> None:
        self._incarnation = incarnation
        self._turns: dict[str, OpenTurn] = {}
        self._active = ""
        self._asked: set[str] = set()
        self._unsaid: dict[str, str] = {}

    def apply(self, change: Change) -> list[ProtocolEvent]:
        """Return the protocol events that the change is, in order; at most 64."""
        record = change.record
        verdict = change.verdict
        if verdict is Verdict.THREAD and isinstance(record, InputResolved):
            return self._number([self._answered(record)], record, change.offset)
        if verdict is Verdict.IGNORED or not isinstance(record, Event) or change.turn is None:
            return []
        turn = self._turns.get(record.turn_id)
        if turn is None:
            turn = self._turns[record.turn_id] = OpenTurn(partial=change.turn.partial)
        if verdict is Verdict.ACCEPTED and type(record) is TokensEmitted:
            drafts = tokens(turn, record)
        elif verdict is Verdict.GAP:
            drafts = self._gap(turn, record)
        else:
            drafts = []
            if verdict is Verdict.REWOUND:
                drafts += rewound(turn, change.dropped, record)
            drafts += self._said(turn, record)
        events = self._number(drafts, record, change.offset)
        if record.terminal and self._unsaid:
            self._say_unsaid(events, record, change.offset)
        return events

    def _said(self, turn: OpenTurn, record: Event) -> list[Draft]:
        if record.terminal:
            return self._end(turn, record)
        if isinstance(record, AttemptStarted):
            return self._start(turn, record)
        speak = SPEAK.get(type(record))
        return speak(turn, record) if speak is not None else []

    def _start(self, turn: OpenTurn, record: AttemptStarted) -> list[Draft]:
        self._active = record.turn_id
        turn.graph, turn.broken = record.graph or turn.graph, False
        return [lifecycle("running", graph_name=turn.graph)]

    def _end(self, turn: OpenTurn, record: Event) -> list[Draft]:
        alone = self._active in {"", record.turn_id}
        if self._active == record.turn_id:
            self._active = ""
        self._turns.pop(record.turn_id, None)
        if isinstance(record, TurnInterrupted):
            return [*closings(turn, None), snapshot(), *self._questions(turn, record)]
        error, spoken = _ending(record)
        if isinstance(record, TurnEnded | TurnRejected) and (self._asked or not alone):
            # somebody else's turn runs, or a question is open: a root `failed` would end those too
            if len(self._unsaid) < UNSAID_MAX:
                self._unsaid[record.turn_id] = error
            return []
        self._asked.clear()
        if isinstance(record, TurnEnded | TurnRejected):
            return [lifecycle("failed", error=error)]
        closed = closings(turn, error if spoken else None)
        status = "failed" if error else "completed"
        return [*closed, snapshot(), lifecycle(status, graph_name=turn.graph, error=error)]

    def _questions(self, turn: OpenTurn, record: TurnInterrupted) -> list[Draft]:
        drafts: list[Draft] = []
        for interrupt in record.interrupts:
            if interrupt.id in self._asked:
                continue
            self._asked.add(interrupt.id)
            asked = turn.questions.get(interrupt.id)
            payload = embed(interrupt.payload)
            schema, expires_at = interrupt.response_schema, interrupt.expires_at
            data = b'{"interrupt_id":%b,"payload":%b,"value":%b%b%b}' % (
                json_bytes(interrupt.id),
                payload,
                payload,
                b',"response_schema":' + embed(schema) if schema else b"",
                b',"expires_at":%d' % expires_at if expires_at else b"",
            )
            space = tuple(asked.ns.split("|")) if asked is not None and asked.ns else ROOT
            drafts.append(("input.requested", "input", space, data))
        return [*drafts, lifecycle("interrupted", graph_name=turn.graph)]

    def _answered(self, record: InputResolved) -> Draft:
        self._asked.discard(record.interrupt_id)
        data = {"interrupt_ids": [record.interrupt_id]}
        return ("input.answered", "input", ROOT, json_bytes(data))

    def _gap(self, turn: OpenTurn, record: Event) -> list[Draft]:
        """Events are missing: say so once, and still end with the turn."""
        drafts: list[Draft] = []
        if not turn.broken:
            turn.broken = True
            drafts = [*closings(turn, "events are missing"), snapshot()]
        if record.terminal:
            drafts += self._end(turn, record)
        return drafts

    def _say_unsaid(self, events: list[ProtocolEvent], record: Event, offset: int) -> None:
        """Add the ends that had to wait, if no turn runs and no question is open."""
        if self._active or self._asked:
            return
        first = first_seq(self._incarnation, offset)
        for k in range(len(events), min(RECORD_EVENTS_MAX, len(events) + len(self._unsaid))):
            turn_id = next(iter(self._unsaid))
            method, channel, _, data = lifecycle("failed", error=self._unsaid.pop(turn_id))
            name = f"synth:{turn_id}:{record.event_id}:{k}"
            at_ms = record.at // 1000
            events.append(ProtocolEvent(first + k, name, method, channel, ROOT, at_ms, data))

    def _number(self, drafts: list[Draft], record: Event, offset: int) -> list[ProtocolEvent]:
        if len(drafts) > RECORD_EVENTS_MAX:
            vital = [draft for draft in drafts if draft[0] in {"lifecycle", "input.requested"}]
            drafts = [snapshot(), *vital[1 - RECORD_EVENTS_MAX :]]
        first = first_seq(self._incarnation, offset)
        at_ms = record.at // 1000
        if len(drafts) == 1 and drafts[0][0] != "lifecycle":  # most records are tokens
            name = f"{record.event_id}:0"
            method, channel, namespace, data = drafts[0]
            return [ProtocolEvent(first, name, method, channel, namespace, at_ms, data)]
        return [
            ProtocolEvent(
                first + k,
                f"{record.event_id}:{k}"
                if namespace or method != "lifecycle"
                else f"synth:{record.turn_id}:{record.event_id}:{k}",
                method,
                channel,
                namespace,
                at_ms,
                data,
            )
            for k, (method, channel, namespace, data) in enumerate(drafts)
        ]


def _ending(record: Event) -> tuple[str, bool]:  # noqa: PLR0911  one answer a kind of end
    """Return the error that ends the run ("": none), and whether open messages end with it too."""
    match record:
        case TurnCompleted():
            return "", False
        case TurnCancelled():
            return "cancelled", False  # what it had said is kept
        case TurnFailed():
            return f"{record.code}: {record.message}" if record.message else record.code, True
        case TurnRejected():
            return f"rejected: {record.reason}", True
        case TurnEnded(outcome="cancelled"):
            return "cancelled", True
        case TurnEnded():
            return f"{record.outcome}: {record.code}" if record.code else record.outcome, True
        case _:
            return type(record).__name__, True
