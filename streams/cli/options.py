"""Options that several commands have, and values that are wrong on the command line."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, TypeVar

import typer

T = TypeVar("T")

HERE = Path(".turnstream")
Dir = Annotated[
    Path,
    typer.Option(
        "--dir",
        help="Folder of the local stack, which fills in settings that are not set.",
        metavar="DIR",
        file_okay=False,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def parsed(parse: Callable[[str], T], text: str, option: str) -> T:
    """Return the parsed text; a text that `parse` refuses is a usage error (exit code 2)."""
    from turnstream.schemas.errors import InvalidRequestError

    try:
        return parse(text)
    except InvalidRequestError as error:
        raise typer.BadParameter(str(error), param_hint=option) from None
