"""The reference page, made from what is there: settings, error codes, records, metrics.

`make docs` writes `docs/reference.md`, and the parts of `docs/consumers.md` that are made from the
code; a test holds both files to this.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from pydantic import SecretStr
from pydantic_core import PydanticUndefined

from turnstream.schemas.errors import TurnstreamError
from turnstream.schemas.records.command_rules import JSON_FIELDS
from turnstream.schemas.records.commands import COMMANDS
from turnstream.schemas.records.events import EVENTS
from turnstream.schemas.records.known import schemas
from turnstream.schemas.records.results import RESULTS
from turnstream.streams.app.settings import Settings
from turnstream.streams.app.variables import OTHER_NAMES, PREFIX

if TYPE_CHECKING:
    from collections.abc import Iterator

TREE = TurnstreamError.__module__.rpartition(".")[0] + "."
HEAD = """# Reference

Made by `make docs` from the code.
"""


def reference() -> str:
    """Return the page as Markdown."""
    return "\n".join([HEAD, *_settings(), *_records(), *_errors()]) + "\n"


def _first_sentence(doc: str | None) -> str:
    text = " ".join((doc or "").split("\n\n")[0].split())
    return text.replace("|", "\\|")


def _shown(value: object) -> str:
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    if value is PydanticUndefined or value is None or value in ("", ()):
        return ""
    if isinstance(value, tuple):
        value = ", ".join(map(str, value))
    return f"`{value}`"


def _settings() -> Iterator[str]:
    yield "## Settings\n"
    yield "From the environment or a file `.env`. `turnstream config show` prints them.\n"
    yield "| variable | default | meaning |\n| --- | --- | --- |"
    for name, field in Settings.model_fields.items():
        default = _shown(field.get_default(call_default_factory=True, validated_data={}))
        meaning = (field.description or "").replace("|", "\\|")
        yield f"| `TURNSTREAM_{name.upper()}` | {default} | {meaning} |"
    yield "\nA list is written `a,b` or as JSON, an object as JSON. Any other variable that begins"
    yield f"with `{PREFIX}` is an error, except:\n"
    yield "| variable | meaning |\n| --- | --- |"
    for name, meaning in OTHER_NAMES.items():
        yield f"| `{name}` | {meaning} |"
    yield ""


def _records() -> Iterator[str]:
    parts = (("Commands", COMMANDS), ("Events", EVENTS), ("Results", RESULTS))
    for title, records in parts:
        yield f"## {title}\n"
        yield "| record | fields beyond the envelope | meaning |\n| --- | --- | --- |"
        for record in records:
            base = record.__mro__[1]
            envelope = set(getattr(base, "__struct_fields__", ()))
            own = [f.name for f in msgspec.structs.fields(record) if f.name not in envelope]
            fields = ", ".join(f"`{name}`" for name in own)
            yield f"| `{record.__name__}` | {fields} | {_first_sentence(record.__doc__)} |"
        yield ""


def _errors() -> Iterator[str]:
    yield "## Error codes\n"
    yield "A WebSocket closes with 4000 + status.\n"
    yield "| code | HTTP status | retry | meaning |\n| --- | --- | --- | --- |"
    pending: list[type[TurnstreamError]] = [TurnstreamError]
    while pending:
        error = pending.pop(0)
        public = (one for one in error.__subclasses__() if one.__module__.startswith(TREE))
        pending.extend(sorted(public, key=lambda one: one.__name__))
        retry = "yes" if error.retryable else "no"
        yield f"| `{error.code}` | {error.status} | {retry} | {_first_sentence(error.__doc__)} |"


def consumers(page: str) -> str:
    """Return the page with its made parts made anew, each between two comments of its name."""
    for name, lines in (("fingerprints", _fingerprints()), ("commands", _commands())):
        begin, end = f"<!-- made: {name} -->", f"<!-- end: {name} -->"
        before, rest = page.split(begin)
        page = "\n".join([before + begin, *lines, end + rest.split(end)[1]])
    return page


def _fingerprints() -> Iterator[str]:
    yield "| record | bytes 2 to 9 of the record | as a number |\n| --- | --- | --- |"
    for schema in sorted(schemas().values(), key=lambda one: one.name):
        number = int.from_bytes(schema.fingerprint, "little")
        yield f"| `{schema.name}` | `{schema.fingerprint.hex()}` | `0x{number:016x}` |"


def _commands() -> Iterator[str]:
    for command in COMMANDS:
        yield f"\n**`{command.__name__}`**: {_first_sentence(command.__doc__)}\n"
        yield "| field | type | default |\n| --- | --- | --- |"
        for field in msgspec.structs.fields(command):
            kind = _SHOWN_TYPES.get(field.type, "string")
            kind = "JSON or JSON text" if field.name in JSON_FIELDS else kind
            default = "required" if field.required else f"`{json.dumps(field.default)}`"
            yield f"| `{field.name}` | {kind} | {default} |"
    yield ""


_SHOWN_TYPES: dict[object, str] = {int: "integer", bool: "boolean"}


if __name__ == "__main__":
    if len(sys.argv) > 1:
        page = Path(sys.argv[1])
        page.write_text(consumers(page.read_text("utf-8")), "utf-8")
    else:
        sys.stdout.write(reference())
