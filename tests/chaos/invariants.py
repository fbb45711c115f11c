"""The invariants of the campaign, checked from the outside: log, Postgres, what clients received.

1 every admitted turn ends, once; what was accepted is admitted or in dead letters
2 fold(log) = every client's transcript = stored text, by SHA-256
3 no gap, no duplicate
4 order of turns in a thread
5 tool effects: counted by the tool itself
6 no write under a stale epoch
7 two independent folds give one digest
8 nothing leaks (`leaks.py`, after the campaign)
"""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

from tests.chaos.graphs.counting import KINDS
from tests.chaos.second_fold import digest_of_fold, digest_of_records
from turnstream.schemas.fold.fold import TIMELINE_BITS, Verdict, rolled_back
from turnstream.schemas.fold.transcript import transcript
from turnstream.schemas.records.events import (
    AttemptStarted,
    MessageFinished,
    TurnCancelled,
    TurnEnded,
    TurnFailed,
)
from turnstream.schemas.text import text_sha256

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.chaos.clients import Plain, Sdk
    from tests.chaos.log import ThreadLog
    from tests.chaos.played import Played
    from turnstream.schemas.fold.fold import TurnView
    from turnstream.schemas.fold.transcript import Tool

TITLES = {
    1: "every admitted turn ends, once; what was accepted is admitted or in dead letters",
    2: "fold(log) = every client's transcript = stored text, by SHA-256",
    3: "no gap, no duplicate",
    4: "order of turns in a thread",
    5: "tool effects: once with a key, never silently twice without",
    6: "no write under a stale epoch",
    7: "two independent folds give one digest",
    8: "nothing leaks",
}

_COUNTED = (Verdict.ACCEPTED, Verdict.REWOUND)
"""Of a terminal that counts: one that rolls its turn back takes everything back that was shown."""


class Broken(NamedTuple):
    """An invariant that does not hold, and what shows it."""

    invariant: int
    what: str


def broken_in(played: Played) -> list[Broken]:
    """Return every invariant that a run broke."""
    found = [Broken(1, trouble) for trouble in played.troubles]
    for check in (_ends, _texts, _gaps, _stale, _digests):
        found += check(played)
    if not played.loses_rows:
        for check in (_orders, _effects):
            found += check(played)
    return found


# -- 1 -------------------------------------------------------------------------------------------


def _ends(played: Played) -> Iterator[Broken]:
    rows = {str(row["turn_id"]): row for row in played.rows}
    for turn_id, sent in played.sent.items():
        row = rows.get(turn_id)
        if row is None:
            if sent.place not in played.letters:
                yield Broken(1, f"{turn_id} was accepted and is nowhere")
            continue
        outcome = json.loads(row["outcome"]) if row["outcome"] else {}
        may = sent.may_end
        if outcome.get("status") not in may:
            yield Broken(1, f"{turn_id} ({sent.kind}) ended {outcome}, and may end {sorted(may)}")
    for turn_id, row in rows.items():
        thread = row["thread_key"].partition("/")[2]
        if turn_id not in played.sent:
            yield Broken(1, f"{turn_id} was admitted and never sent")
        ends = [
            e
            for e in played.logs[thread].of(turn_id)
            if getattr(e.record, "terminal", False) and e.change.verdict in _COUNTED
        ]
        lines = {e.record.epoch >> TIMELINE_BITS for e in ends}
        if not ends or len(ends) != len(lines):
            yield Broken(1, f"{turn_id} ended {len(ends)} times in the log")
        results = played.results[turn_id]
        if any(result != results[0] for result in results) and not played.loses_rows:
            yield Broken(1, f"{turn_id} has results that differ: {results}")


# -- 2 -------------------------------------------------------------------------------------------


def _texts(played: Played) -> Iterator[Broken]:
    for row in played.rows:
        turn_id, thread = str(row["turn_id"]), row["thread_key"].partition("/")[2]
        view = played.logs[thread].fold.turns.get(turn_id)
        if view is None or not view.done or not row["outcome"]:
            continue  # said by the first invariant
        yield from _stored(played, turn_id, view, json.loads(row["outcome"]))
        for client in played.plain[thread]:
            yield from _plain_shows(client, turn_id, view)
    for sdk in played.sdks:
        # its stream is over at a run's first end: it cannot see that the run is run again
        if sdk.gave_up or played.loses_rows:
            continue
        thread_log = next(
            (log for log in played.logs.values() if sdk.run_id in log.fold.turns), None
        )
        if thread_log is not None:
            yield from _sdk_shows(sdk, thread_log)
    yield from _states(played)


def _stored(
    played: Played, turn_id: str, view: TurnView, outcome: dict[str, Any]
) -> Iterator[Broken]:
    text = outcome.get("text", "")
    if outcome.get("sha256", text_sha256("")) != text_sha256(text):
        yield Broken(2, f"{turn_id}: the ledger's text has another digest than it says")
    end = view.terminal
    if outcome["status"] == "completed":
        told = {message.message_id: message for message in transcript(view).messages}
        shown = told.get(outcome.get("message_id", ""))
        if text and (shown is None or shown.text != text or not shown.intact):
            have = shown.text if shown is not None else None
            yield Broken(2, f"{turn_id}: the ledger has {text!r}, the log has {have!r}")
        expected = played.sent[turn_id].text if turn_id in played.sent else ""
        if expected and text != expected:
            yield Broken(2, f"{turn_id}: the model said {expected!r}, the ledger has {text!r}")
    digest = outcome.get("sha256", "")
    if getattr(end, "sha256", digest) != digest:
        yield Broken(2, f"{turn_id}: the terminal's digest is not the ledger's")
    # where the database was put back, the last one is of what the ledger holds now
    result = played.results[turn_id][-1] if played.results[turn_id] else None
    if result is not None and (result.status, result.sha256) != (
        outcome["status"],
        outcome.get("sha256", ""),
    ):
        yield Broken(2, f"{turn_id}: the result {result} is not the outcome {outcome}")


def _shown_in(view: TurnView) -> tuple[dict[str, str], dict[str, str]]:
    told = transcript(view)
    said = {
        m.message_id: m.text
        for m in told.messages
        if m.role == "assistant" and (m.finished or m.text)
    }
    return said, {t.tool_call_id: t.output for t in told.tools if t.state == "finished"}


def _plain_shows(client: Plain, turn_id: str, view: TurnView) -> Iterator[Broken]:
    messages, tools = _shown_in(view)
    shown = client.turns[turn_id]
    if len(shown.ends) != 1:
        if not client.resets or shown.ends:
            yield Broken(2, f"{client.name}: {turn_id} ended {len(shown.ends)} times")
        return
    if rolled_back(view):
        return  # its end says so, and a reader hides it
    if _digest(shown.messages | shown.saying) != _digest(messages):
        yield Broken(
            2, f"{client.name}: {turn_id} shows {shown.messages | shown.saying}, not {messages}"
        )
    if shown.tools != tools:
        yield Broken(2, f"{client.name}: {turn_id} shows the tools {shown.tools}, not {tools}")


def _sdk_shows(sdk: Sdk, log: ThreadLog) -> Iterator[Broken]:
    view = log.fold.turns[sdk.run_id]
    messages, tools = _shown_in(view)
    # the SDK has no way to take back a message that it has called finished
    unfinished = {
        item.message_id
        for entry in log.of(sdk.run_id)
        for item in entry.change.dropped
        if isinstance(item, MessageFinished)
    }
    for message_id, text in messages.items():
        texts = sdk.messages.get(message_id, [])
        if not texts or texts[-1] != text or (len(texts) > 1 and message_id not in unfinished):
            yield Broken(2, f"{sdk.name}: {sdk.run_id} {message_id} shows {texts}, not {text!r}")
    for message_id in set(sdk.messages) - set(messages) - unfinished:
        told = [
            (type(e.record).__name__, e.record.epoch, e.record.n, e.change.verdict.value)
            for e in log.of(sdk.run_id)
            if getattr(e.record, "message_id", "") == message_id or e.change.dropped
        ]
        yield Broken(
            2,
            f"{sdk.name}: {sdk.run_id} {message_id} shows {sdk.messages[message_id]}, which the log"
            f" does not: {told}",
        )
    nested = {call.tool_call_id for call in transcript(view).tools if "|" in call.path}
    for call, output in tools.items():
        if call in nested:
            continue  # the SDK shows those of a nested graph at its own handle alone
        if sdk.tools.get(call) != output:
            yield Broken(
                2, f"{sdk.name}: tool {call} shows {sdk.tools.get(call)!r}, not {output!r}"
            )


def _states(played: Played) -> Iterator[Broken]:
    """The thread's stored state ends with the text of its last completed turn."""
    for thread, state in played.states.items():
        rows = [row for row in played.rows if row["thread_key"].endswith(f"/{thread}")]
        if any(row["front"] for row in rows):
            continue  # they did not run in the order in which they were admitted
        done = [(row, json.loads(row["outcome"])) for row in rows if row["outcome"]]
        ran = [outcome for row, outcome in done if outcome["status"] != "rejected"]
        if not ran or ran[-1]["status"] != "completed" or not ran[-1].get("text"):
            continue
        last = (state["values"].get("messages") or [{}])[-1].get("content")
        if text_sha256(str(last)) != ran[-1]["sha256"]:
            yield Broken(2, f"{thread}: the state ends with {last!r}, not {ran[-1]['text']!r}")


def _digest(messages: dict[str, str]) -> dict[str, str]:
    return {message_id: text_sha256(text) for message_id, text in messages.items() if text}


# -- 3 -------------------------------------------------------------------------------------------


def _gaps(played: Played) -> Iterator[Broken]:
    for log in played.logs.values():
        for turn_id, view in log.fold.turns.items():
            if view.gaps or view.partial:
                yield Broken(3, f"{turn_id}: {view.gaps} gaps, partial {view.partial}")
            for message in transcript(view).messages:
                if message.finished and not message.intact and message.sha256:
                    yield Broken(
                        3, f"{turn_id}: {message.message_id} is not what it was said to be"
                    )
    for clients in played.plain.values():
        for client in clients:
            for problem in client.problems:
                yield Broken(3, f"{client.name}: {problem}")
            for turn_id in client.reopened if not played.loses_rows else ():
                yield Broken(3, f"{client.name}: {turn_id} was over and went on")


# -- 4 -------------------------------------------------------------------------------------------


def _orders(played: Played) -> Iterator[Broken]:
    for thread, log in played.logs.items():
        begun: list[str] = []
        open_turn = ""
        for entry in log.entries:
            turn_id, verdict = entry.record.turn_id, entry.change.verdict
            if verdict is Verdict.IGNORED or isinstance(entry.record, TurnEnded):
                continue
            if isinstance(entry.record, AttemptStarted):
                if open_turn not in ("", turn_id):
                    yield Broken(4, f"{thread}: {turn_id} began before {open_turn} was over")
                open_turn = turn_id
                if turn_id not in begun:
                    begun.append(turn_id)
            elif getattr(entry.record, "terminal", False):
                open_turn = ""
        admitted = [
            str(row["turn_id"])
            for row in played.rows
            if row["thread_key"].endswith(f"/{thread}") and not row["front"]
        ]
        seen = [turn_id for turn_id in begun if turn_id in admitted]
        if seen != [turn_id for turn_id in admitted if turn_id in seen]:
            yield Broken(4, f"{thread}: turns began as {seen}, and were admitted as {admitted}")
        sent = [turn_id for turn_id, s in played.sent.items() if s.thread == thread and s.place]
        kept = [turn_id for turn_id in sent if turn_id in admitted]
        if kept != [turn_id for turn_id in admitted if turn_id in kept]:
            yield Broken(4, f"{thread}: turns were sent as {kept}, and admitted as {admitted}")


# -- 5 -------------------------------------------------------------------------------------------


def _effects(played: Played) -> Iterator[Broken]:
    acted = Counter((e["turn_id"], e["tool"], e["what"]) for e in played.effects)
    for (turn_id, tool, what), count in acted.items():
        if count > 1:
            yield Broken(5, f"{turn_id}: {tool} acted {count} times for {what!r}")
    for log in played.logs.values():
        for turn_id, view in log.fold.turns.items():
            for call in transcript(view).tools:
                if call.name in KINDS:
                    yield from _told(view, call, acted[turn_id, call.name, call.name])


def _told(view: TurnView, call: Tool, count: int) -> Iterator[Broken]:
    """What the transcript says of a call has to be what happened.

    A turn that was stopped in the middle of a call says of any tool that nobody knows.
    """
    turn_id, stopped = view.turn_id, isinstance(view.terminal, TurnCancelled | TurnFailed)
    if call.state == "finished" and not count:
        yield Broken(5, f"{turn_id}: {call.name} is told and never happened")
    if call.state == "failed" and call.code != "tool_indeterminate" and count:
        yield Broken(5, f"{turn_id}: {call.name} acted, and is told as {call.code}")
    if call.state == "failed" and KINDS[call.name].honours_key and not stopped:
        yield Broken(5, f"{turn_id}: {call.name} honours its key, and is told as {call.code}")


# -- 6, 7 ----------------------------------------------------------------------------------------


def _stale(played: Played) -> Iterator[Broken]:
    for write in played.stale_writes:
        yield Broken(
            6,
            f"{write['writer']} wrote {write['what']} of {write['thread_key']}, whose owner was"
            f" {write['owner']} at epoch {write['epoch']}",
        )


def _digests(played: Played) -> Iterator[Broken]:
    for thread, log in played.logs.items():
        again = digest_of_records([entry.record for entry in log.entries])
        if again != digest_of_fold(log.fold):
            yield Broken(7, f"{thread}: the folds differ")
