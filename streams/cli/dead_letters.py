"""`turnstream dead-letters`: list, show, requeue, drop. Needs Kafka and Postgres."""

import asyncio
import getpass
import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from turnstream.schemas.ids import check_tenant
from turnstream.streams.cli.options import HERE, AsJson, Dir, parsed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from turnstream.streams.letters.dead_letters import DeadLetters
    from turnstream.streams.letters.scan import Letter, LetterPage, Place, Wanted

T = TypeVar("T")


class State(StrEnum):
    """The state of a letter."""

    OPEN = "open"
    REQUEUE_DUE = "requeue_due"
    REQUEUED = "requeued"
    DROPPED = "dropped"
    ALL = "all"


app = typer.Typer(
    help="List, show, requeue and drop records that were refused.", no_args_is_help=True
)

Which = Annotated[list[str], typer.Argument(help="partition-offset, as `list` shows it.")]
Note = Annotated[str, typer.Option(help="Reason, kept with the decision.")]
Budget = Annotated[
    float,
    typer.Option("--timeout", help="Most seconds to read the topic for.", min=0.1),
]


@app.command("list")
def list_letters(
    *,
    tenant: Annotated[str, typer.Option(help="Only letters of this tenant.")] = "",
    code: Annotated[str, typer.Option(help="Only letters refused with this code.")] = "",
    topic: Annotated[str, typer.Option(help="Only letters from this input topic.")] = "",
    state: Annotated[State, typer.Option(help="Only letters in this state.")] = State.OPEN,
    partition: Annotated[
        int, typer.Option(help="Partition of the dead-letters topic; -1: all.", min=-1)
    ] = -1,
    first: Annotated[int, typer.Option("--from", help="First offset.", min=0)] = 0,
    end: Annotated[int, typer.Option("--to", help="Offset after the last; -1: end.", min=-1)] = -1,
    limit: Annotated[int, typer.Option(help="Letters on one page.", min=1, max=500)] = 50,
    start: Annotated[
        str, typer.Option("--after", help="Where to go on, as the page before printed it.")
    ] = "",
    budget_s: Budget = 60.0,
    folder: Dir = HERE,
    as_json: AsJson = False,
) -> None:
    """List letters, by default those without a decision, in order of partition and offset.

    A page that ends early, at its limit or its time, prints where the next page begins. Exit code
    3: the time ran out.
    """
    from turnstream.streams.cli.letter_output import page_json, print_page
    from turnstream.streams.letters.scan import Wanted, parse_place

    wanted = Wanted(
        tenant=parsed(check_tenant, tenant, "--tenant") if tenant else None,
        code=code,
        topic=topic,
        state="" if state is State.ALL else state.value,
        partition=None if partition < 0 else partition,
        first=first,
        end=None if end < 0 else end,
    )
    place = parsed(parse_place, start, "--after") if start else None
    page = asyncio.run(_page(folder, wanted, place, limit, budget_s))
    if as_json:
        typer.echo(json.dumps(page_json(page), indent=2, ensure_ascii=False))
    else:
        print_page(page)
    if page.cut:
        raise typer.Exit(3)


@app.command()
def show(
    letter: Annotated[str, typer.Argument(help="partition-offset, as `list` shows it.")],
    *,
    raw: Annotated[bool, typer.Option("--raw", help="Print only the record's bytes.")] = False,
    budget_s: Budget = 20.0,
    folder: Dir = HERE,
    as_json: AsJson = False,
) -> None:
    """Show a letter: its bytes, whether they would be accepted now, and what was decided."""
    from turnstream.streams.cli.letter_output import print_letter
    from turnstream.streams.letters.reading import shown_json
    from turnstream.streams.letters.scan import parse_place

    place = parsed(parse_place, letter, "LETTER")

    async def look(letters: "DeadLetters") -> "tuple[Letter, dict[str, Any]]":
        found = await letters.get(place, budget_s=budget_s)
        reading = letters.read(found.record)
        return found, shown_json(found, reading, await letters.history(found))

    found, shown = asyncio.run(_with(folder, look))
    if raw:
        sys.stdout.buffer.write(found.record.value)
    elif as_json:
        typer.echo(json.dumps(shown, indent=2, ensure_ascii=False))
    else:
        print_letter(shown)


@app.command()
def requeue(
    letters: Which,
    *,
    value: Annotated[
        str, typer.Option(help="File with the bytes to send instead; - for standard input.")
    ] = "",
    key: Annotated[str | None, typer.Option(help="Key to send instead; empty for none.")] = None,
    note: Note = "",
    force: Annotated[bool, typer.Option(help="Send even what would be refused again.")] = False,
    wait_s: Annotated[
        float, typer.Option("--wait", help="Seconds to wait until a worker has sent it.", min=0)
    ] = 10,
    folder: Dir = HERE,
    as_json: AsJson = False,
) -> None:
    """Send letters to their topics once more, as they are or edited.

    The decision is durable before the command ends; a worker carries it out, once. Exit code 1: the
    letter is decided already, or would be refused again. Exit code 3: no worker has sent it yet.
    """
    if value and len(letters) > 1:
        raise typer.BadParameter("an edit is of one letter")
    data = _bytes_of(value) if value else None

    async def decide(service: "DeadLetters", letter: "Letter") -> "Letter":
        found = await service.requeue(
            letter,
            actor=_actor(),
            note=note,
            key=None if key is None else key.encode(),
            value=data,
            force=force,
        )
        return await service.sent(found, timeout_s=wait_s)

    done = _decide(folder, letters, decide, as_json=as_json)
    if any(letter.state == "requeue_due" for letter in done):
        typer.echo("decided; a worker of its topic will send it", err=True)
        raise typer.Exit(3)


@app.command()
def drop(letters: Which, *, note: Note = "", folder: Dir = HERE, as_json: AsJson = False) -> None:
    """Drop letters: no worker sends them again. Their bytes stay for the topic's retention."""

    async def decide(service: "DeadLetters", letter: "Letter") -> "Letter":
        return await service.drop(letter, actor=_actor(), note=note)

    _decide(folder, letters, decide, as_json=as_json)


def _decide(
    folder: Path,
    texts: list[str],
    decide: "Callable[[DeadLetters, Letter], Awaitable[Letter]]",
    *,
    as_json: bool,
) -> "list[Letter]":
    from turnstream.streams.letters.reading import letter_json
    from turnstream.streams.letters.scan import parse_place

    places = [parsed(parse_place, text, "LETTERS...") for text in texts]
    done: list[Letter] = []

    async def each(service: "DeadLetters") -> None:
        for place in places:
            letter = await decide(service, await service.get(place))
            done.append(letter)
            if not as_json:
                typer.echo(f"{place}  {letter.state}")

    try:
        asyncio.run(_with(folder, each))
    finally:
        if as_json:
            rows = [letter_json(letter) for letter in done]
            typer.echo(json.dumps(rows, indent=2, ensure_ascii=False))
    return done


async def _with(folder: Path, do: "Callable[[DeadLetters], Awaitable[T]]") -> T:
    from turnstream.streams.app.letters import open_dead_letters
    from turnstream.streams.cli.configured import configured

    async with open_dead_letters(
        configured("kafka_bootstrap", "database_url", folder=folder)
    ) as letters:
        return await do(letters)


async def _page(
    folder: Path, wanted: "Wanted", start: "Place | None", limit: int, budget_s: float
) -> "LetterPage":
    from turnstream.streams.cli.letter_output import progress

    with progress() as tell:
        return await _with(
            folder,
            lambda letters: letters.page(
                wanted, start=start, limit=limit, budget_s=budget_s, on_progress=tell
            ),
        )


def _actor() -> str:
    return f"cli:{getpass.getuser()}"


def _bytes_of(file: str) -> bytes:
    if file == "-":
        return sys.stdin.buffer.read()
    try:
        return Path(file).read_bytes()
    except OSError as error:
        raise typer.BadParameter(f"{file}: {error.strerror}") from error
