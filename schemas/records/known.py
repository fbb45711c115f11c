"""The schema of every record: its `.avsc` text, parsed form, Struct and fingerprint.

Fingerprints are CRC-64-AVRO over the parsing canonical form (Avro 1.12 specification, "Schema
Fingerprints"). The files use no logical types: the specification removes them from the canonical
form, but some libraries keep them and would compute another fingerprint.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, cast

from fastavro.schema import fingerprint, parse_schema, to_parsing_canonical_form

from turnstream.schemas.records.commands import COMMANDS
from turnstream.schemas.records.events import EVENTS
from turnstream.schemas.records.results import RESULTS

if TYPE_CHECKING:
    import msgspec

NAMESPACE = "turnstream"


@dataclass(frozen=True, slots=True)
class Schema:
    """One record type.

    `fingerprint` has the eight bytes in the order in which they stand in a record (little-endian);
    `canonical` is the parsing canonical form they are computed from.
    """

    name: str
    struct: type[msgspec.Struct]
    text: str
    parsed: dict[str, object]
    fingerprint: bytes
    canonical: str
    nested: bool

    @property
    def subject(self) -> str:
        """Return the registry's name of the record (record-name strategy)."""
        return f"{NAMESPACE}.{self.name}"


def _plain(schema: object) -> object:
    """Return the schema without logical types: times stay integers.

    A registry may hold versions of our schemas that were registered with logical types.
    """
    if isinstance(schema, dict):
        if "logicalType" in schema:
            return schema["type"]
        return {key: _plain(value) for key, value in schema.items()}
    if isinstance(schema, list):
        return [_plain(part) for part in schema]
    return schema


def parse(text: str) -> dict[str, object]:
    """Return a schema's text as fastavro wants it: parsed, and without logical types."""
    plain = cast("dict[str, object]", _plain(json.loads(text)))
    return cast("dict[str, object]", parse_schema(plain))


def _load(struct: type[msgspec.Struct]) -> Schema:
    text = (files("turnstream.schemas.records") / "avro" / f"{struct.__name__}.avsc").read_text(
        "utf-8"
    )
    written = json.loads(text)
    canonical = to_parsing_canonical_form(written)
    return Schema(
        name=struct.__name__,
        struct=struct,
        text=text,
        parsed=parse(text),
        # the specification writes the eight bytes little-endian; fastavro gives them so, as hex
        fingerprint=bytes.fromhex(fingerprint(canonical, "CRC-64-AVRO")),
        canonical=canonical,
        nested=any(not isinstance(field["type"], str) for field in written["fields"]),
    )


@cache
def schemas() -> dict[type[msgspec.Struct], Schema]:
    """Return every record's schema by its Struct; reads the package's files once."""
    return {struct: _load(struct) for struct in (*EVENTS, *COMMANDS, *RESULTS)}


@cache
def earlier_schemas() -> dict[bytes, tuple[str, dict[str, object]]]:
    """Return the schemas of earlier versions: fingerprint to record name and parsed schema.

    Kafka and the ledger hold records that were written before a field was added. When a file in
    `avro/` changes, its version before goes to `avro/earlier/<Name>-<fingerprint>.avsc`.
    """
    found = {}
    folder = files("turnstream.schemas.records") / "avro" / "earlier"
    for file in folder.iterdir() if folder.is_dir() else ():
        name, _, number = file.name.removesuffix(".avsc").partition("-")
        found[bytes.fromhex(number)] = (name, parse(file.read_text("utf-8")))
    return found


@cache
def schemas_by_name() -> dict[str, Schema]:
    """Return every record's schema by its record name."""
    return {schema.name: schema for schema in schemas().values()}
