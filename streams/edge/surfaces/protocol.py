"""Changes of the fold as events of the Agent Streaming Protocol (`langchain-protocol`). Pure.

The same records give the same events with the same ids and numbers at every edge and every replay,
if the fold began at the start of a turn. The stock SDKs decide the form of an event:

- A run begins with a root lifecycle `running` and ends with `completed` or `failed`. A cancelled
  turn is `failed` with error `cancelled`. Open messages are closed before the end.
- The id of a root lifecycle event is `synth:<run id>:...`, as in the agent server. By it the
  JavaScript SDK knows whose end it reads, and takes no other for the end of its own run.
- A turn that ended unclaimed while another one ran is `failed` after the end of that one, because
  most clients take any root `failed` for the end of the running turn.
- A rewind is an `error` for each open message, a `values` snapshot, and new message ids.
- `input.requested` comes once for an id, at the turn's end, because it pauses the SDK's iterators.
  `input.answered` says that a question is closed, by an answer or otherwise.
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
from turnstream.streams.edge.surfaces.protocol_endings import closings, rewound
from turnstream.streams.edge.surfaces.protocol_records import said
from turnstream.streams.edge.surfaces.protocol_text import tokens
from turnstream.streams.edge.surfaces.protocol_turn import ROOT, OpenTurn, lifecycle, snapshot

if TYPE_CHECKING:
    from turnstream.schemas.fold.fold import Change
    from turnstream.streams.edge.surfaces.protocol_message import Draft

UNSAID_MAX = 32
"""Ends of other turns that wait for the running turn's end; later ones are dropped."""


class Projection:
    """The protocol's view of one thread; `apply` takes every change of one fold, in order."""

    def __init__(self, incarnation: int) -> None:
        self._incarnation = incarnation
        self._turns: dict[str, OpenTurn] = {}
        self._active = ""
        self._asked: set[str] = set()
        self._unsaid: dict[str, str] = {}

    def apply(self, change: Change) -> list[ProtocolEvent]:
        """Return the protocol events of a change, in order; at most 64."""
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
        return said(turn, record)

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
            # another turn runs, or a question is open: a root `failed` would end those too
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
        """Return an error once for missing events; the turn still ends."""
        drafts: list[Draft] = []
        if not turn.broken:
            turn.broken = True
            drafts = [*closings(turn, "events are missing"), snapshot()]
        if record.terminal:
            drafts += self._end(turn, record)
        return drafts

    def _say_unsaid(self, events: list[ProtocolEvent], record: Event, offset: int) -> None:
        """Add the ends that waited, if no turn runs and no question is open."""
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
    """Return the error that ends the run ("": none), and whether open messages end with it."""
    match record:
        case TurnCompleted():
            return "", False
        case TurnCancelled():
            return "cancelled", False  # its messages are kept
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
