"""How `turnstream dead-letters` shows letters."""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from turnstream.streams.letters.reading import letter_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from turnstream.streams.letters.scan import LetterPage


@contextmanager
def progress() -> Iterator[Callable[[int, int], None]]:
    """Show on a terminal how many records are read; gives what is told of it."""
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    err = Console(stderr=True)
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bar:
        task = bar.add_task("letters read", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def page_json(page: LetterPage) -> dict[str, object]:
    """Return a page for scripts."""
    return {
        "letters": [letter_json(letter) for letter in page.letters],
        "after": None if page.following is None else str(page.following),
        "cut": page.cut,
        "unreadable": page.unreadable,
    }


def print_page(page: LetterPage) -> None:
    """Print a page as a table, and where the next one begins."""
    table = Table(box=None, pad_edge=False)
    for title in ("letter", "state", "code", "from", "bytes", "why"):
        table.add_column(title, overflow="fold")
    for letter in page.letters:
        record = letter.record
        table.add_row(
            str(letter.place),
            letter.state,
            record.code,
            f"{record.topic}[{record.partition}]@{record.offset}",
            str(len(record.value)),
            record.message[:80],
        )
    Console().print(table)
    if page.unreadable:
        typer.echo(f"{page.unreadable} records are no letters", err=True)
    if page.following is not None:
        why = "the time is over" if page.cut else "more"
        typer.echo(f"{why}: --after {page.following}", err=True)


def print_letter(shown: dict[str, Any]) -> None:
    """Print one letter; `shown` is what `shown_json` returns."""
    reading = shown["reading"]
    typer.echo(f"letter   {shown['letter']} ({shown['state']}), requeued {shown['requeues']} times")
    typer.echo(f"from     {shown['topic']}[{shown['partition']}]@{shown['offset']}, {shown['at']}")
    typer.echo(f"refused  {shown['code']}: {shown['message']}")
    typer.echo(f"key      {shown.get('key', shown.get('key_base64'))}")
    typer.echo(f"bytes    {shown['size']}: {reading['form']} {reading['type']}".rstrip())
    for name, value in reading["fields"].items():
        typer.echo(f"         {name}: {json.dumps(value, ensure_ascii=False)[:300]}")
    now = f"{reading['code']}: {reading['message']}" if reading["code"] else "it would be taken"
    typer.echo(f"now      {now}")
    for one in shown["history"]:
        sent = f", sent to [{one['sent_partition']}]@{one['sent_offset']}" * bool(one["sent_at"])
        edited = " (edited)" * one["edited"]
        typer.echo(
            f"decided  {one['at']} {one['actor']}: {one['what']}{edited}{sent} {one['note']}"
        )
