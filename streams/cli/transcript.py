"""A replay as people read it, and as JSON for scripts. Prints; reads nothing."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec
from rich.console import Console
from rich.markup import escape

from turnstream.schemas.fold.messages import Message
from turnstream.schemas.fold.transcript import Tool
from turnstream.schemas.records.events import CustomEmitted, InputRequested
from turnstream.schemas.text import text_sha256

if TYPE_CHECKING:
    from turnstream.schemas.records.events import Event
    from turnstream.streams.replay.view import Attempt, Check, Input, ThreadReplay, TurnReplay

_MARKS = {"match": "[green]✓[/]", "mismatch": "[bold red]✗[/]", "partial": "~", "open": "…"}

_MESSAGE_FIELDS = (
    "message_id",
    "role",
    "name",
    "path",
    "n",
    "finished",
    "finish_reason",
    "sha256",
    "usage",
    "text",
    "reasoning",
    "intact",
)


def as_json(thread: ThreadReplay) -> dict[str, Any]:
    """Return the replay as JSON values; times are microseconds since 1970."""
    return {
        "tenant": thread.tenant,
        "thread_id": thread.thread_id,
        "log": {"partition": thread.partition, "first": thread.first, "end": thread.end},
        "turns": [_turn_json(turn) for turn in thread.turns.values()],
        "resolved": [
            {"interrupt_id": r.interrupt_id, "actor": r.actor, "rev": r.rev}
            for r in thread.resolved
        ],
        "unknown_records": thread.unknown,
        "problems": thread.problems,
        "ok": not thread.problems,
    }


def _turn_json(turn: TurnReplay) -> dict[str, Any]:
    terminal = turn.view.terminal
    return {
        "turn_id": turn.view.turn_id,
        "state": turn.state,
        "done": turn.view.done,
        "input": msgspec.to_builtins(turn.input) if turn.input is not None else None,
        "attempts": [msgspec.to_builtins(attempt) for attempt in turn.attempts],
        "rewinds": [msgspec.to_builtins(rewind) for rewind in turn.rewinds],
        "retries": turn.retries,
        "records": {"all": turn.records, "void": turn.void, "gaps": turn.view.gaps},
        "entries": [_entry_json(entry) for entry in turn.shown.entries],
        "outcome": None
        if terminal is None
        else {"type": type(terminal).__name__, **msgspec.to_builtins(terminal)},
        "checks": [msgspec.to_builtins(check) for check in turn.checks],
        "timings": {
            "first_at": turn.first_at,
            "first_token_at": turn.first_token_at,
            "last_at": turn.last_at,
        },
    }


def _entry_json(entry: Message | Tool | InputRequested | CustomEmitted) -> dict[str, Any]:
    kind = {
        Message: "message",
        Tool: "tool",
        InputRequested: "question",
        CustomEmitted: "custom",
    }[type(entry)]
    body: Any = entry
    if isinstance(entry, Message):
        body = {name: getattr(entry, name) for name in _MESSAGE_FIELDS}
        body["computed_sha256"] = text_sha256(entry.text)
    return {"kind": kind, **msgspec.to_builtins(body)}


def show(thread: ThreadReplay, console: Console | None = None) -> None:
    """Print the replay."""
    out = console or Console(highlight=False)
    name = escape(f"{thread.tenant}/{thread.thread_id}")
    out.print(f"[bold]thread {name}[/]  partition {thread.partition}, ", end="")
    out.print(f"log from {thread.first} to {thread.end}")
    for turn in thread.turns.values():
        _show_turn(out, turn)
    for answer in thread.resolved:
        by = escape(answer.actor or "an unnamed actor")
        out.print(f"question {escape(answer.interrupt_id)} resolved by {by}")
    out.print()
    if thread.problems:
        for problem in thread.problems:
            out.print(f"[bold red]✗[/] {escape(problem)}")
    else:
        checks = [check for turn in thread.turns.values() for check in turn.checks]
        matching = sum(check.verdict == "match" for check in checks)
        open_ = sum(check.verdict == "open" for check in checks)
        rest = f"; {open_} without one, never finished" if open_ else ""
        out.print(f"[green]✓[/] {matching} texts match their SHA-256{rest}; no gaps")


def _show_turn(out: Console, turn: TurnReplay) -> None:
    view = turn.view
    out.print()
    out.rule(f"turn {view.turn_id}", align="left")
    state = f"[yellow]{turn.state}[/]" if turn.state != "whole" else "whole"
    rest = f", {turn.void} void" if turn.void else ""
    out.print(f"{state}; {turn.records} records{rest}; {_time(turn.first_at)}{_timings(turn)}")
    for attempt in turn.attempts:
        out.print(f"  {_attempt(attempt)}", style="dim")
    for rewind in turn.rewinds:
        out.print(f"  rewind: {rewind.items} events taken back by {rewind.why}", style="dim")
    if turn.input is not None:
        out.print(f"\n[bold]user[/]  {_input(turn.input)}")
    verdicts = {check.what: check for check in turn.checks}
    for entry in turn.shown.entries:
        out.print(_entry(entry, verdicts))
    if view.terminal is not None:
        said: str | None = getattr(view.terminal, "text", None)
        if view.partial and said:
            out.print(f"\n[bold]text by the outcome[/]\n{escape(said)}")
        out.print(f"\n{_outcome(view.terminal, verdicts)}")
    elif not view.done:
        out.print("\n[yellow]no end in the log: the turn runs, or is waiting for a worker[/]")


def _entry(
    entry: Message | Tool | InputRequested | CustomEmitted, verdicts: dict[str, Check]
) -> str:
    match entry:
        case Message():
            check = verdicts[f"message {entry.message_id}"]
            thought = f"\n[dim italic]{escape(entry.reasoning)}[/]" if entry.reasoning else ""
            digest = f"sha256 {check.computed[:16]} {check.verdict}"
            text = f"\n[bold]{escape(entry.role)}[/]{thought}\n{escape(entry.text)}"
            return f"{text}\n{_MARKS[check.verdict]} [dim]{digest}[/]"
        case Tool():
            head = f"\n[bold]tool[/] {escape(entry.name)}({escape(entry.args)}) {entry.state}"
            return f"{head}\n{escape(entry.output)}" if entry.output else head
        case InputRequested():
            return f"\n[bold]question[/] {entry.interrupt_id}\n{escape(entry.payload)}"
        case CustomEmitted():
            return f"\n[bold]{escape(entry.name)}[/] {escape(entry.payload)}"


def _outcome(terminal: Event, verdicts: dict[str, Check]) -> str:
    words = [
        type(terminal).__name__,
        *(
            f"{name} {escape(str(value))}"
            for name in ("outcome", "cause", "reason", "code", "message")
            if (value := getattr(terminal, name, ""))
        ),
        *(
            f"{escape(usage.model)} {usage.input_tokens} in {usage.output_tokens} out"
            for usage in getattr(terminal, "usage", ())
        ),
    ]
    if (check := verdicts.get("outcome")) is not None:
        words.append(f"{_MARKS[check.verdict]} sha256 {check.computed[:16]} {check.verdict}")
    return "; ".join(words)


def _input(asked: Input) -> str:
    where = f"{asked.topic} partition {asked.partition} offset {asked.offset}"
    if not asked.found:
        return f"[dim](the input topic no longer holds it: {escape(where)})[/]"
    return f"{escape(asked.text or asked.payload)}  [dim]({escape(where)})[/]"


def _attempt(attempt: Attempt) -> str:
    token = _seconds(attempt.at, attempt.first_token_at)
    first = f", first token after {token}" if token else ""
    back = f", took back {attempt.taken_back} events" if attempt.taken_back else ""
    worker = escape(attempt.worker or "unnamed")
    return f"attempt {attempt.epoch} ({attempt.reason}) by {worker}{first}{back}"


def _timings(turn: TurnReplay) -> str:
    first, whole = (
        _seconds(turn.first_at, turn.first_token_at),
        _seconds(turn.first_at, turn.last_at),
    )
    return "".join(
        (f"; first token after {first}" if first else "", f"; took {whole}" if whole else "")
    )


def _seconds(start: int, end: int) -> str:
    return f"{(end - start) / 1e6:.3f} s" if start and end >= start else ""


def _time(at: int) -> str:
    return datetime.fromtimestamp(at / 1e6, UTC).isoformat(sep=" ", timespec="milliseconds")
