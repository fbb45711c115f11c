"""`tests/vectors/avro.json`: one encoded record of each schema, for readers in other languages.

    python -m tests.schemas.test_avro_vectors > tests/vectors/avro.json

Each entry has the record's `name`, its `fingerprint` as the hexadecimal bytes that stand in the
record, the `canonical` form, the `fields` as JSON (bytes as base64) and the record's `bytes`
(base64, single-object encoding).
"""

from __future__ import annotations

import base64
import json
import sys
from io import BytesIO
from pathlib import Path
from typing import Any

import msgspec
import msgspec.inspect
from fastavro import schemaless_writer
from fastavro.schema import fingerprint, to_parsing_canonical_form

from turnstream.connectors.avro import Codec
from turnstream.schemas.records.commands import StartTurn
from turnstream.schemas.records.events import UnknownEvent
from turnstream.schemas.records.known import earlier_schemas, parse, schemas, schemas_by_name

VECTORS = Path(__file__).parents[1] / "vectors" / "avro.json"
PUBLISHED = VECTORS.with_name("fingerprints.txt")
"""Every schema that records were ever written with: name and fingerprint, a line each."""

LONG_POWERS = 18
"""7 to the power of 17 is below 2**53: a JavaScript number holds it."""


def _sample(struct: type[msgspec.Struct]) -> msgspec.Struct:
    """A record whose every field has a value of its own, in the order of the fields."""
    numbers = iter(range(1, 1000))

    def value(kind: msgspec.inspect.Type) -> Any:
        number = next(numbers)
        match kind:
            case msgspec.inspect.LiteralType():
                return kind.values[-1]
            case msgspec.inspect.StrType():
                return f"글 {number} 😀"
            case msgspec.inspect.IntType():
                return (-1) ** number * 7 ** (number % LONG_POWERS)
            case msgspec.inspect.BoolType():
                return True
            case msgspec.inspect.BytesType():
                return bytes((0, 255, number))
            case msgspec.inspect.ListType():
                return [value(kind.item_type)]
            case msgspec.inspect.UnionType():
                return value(kind.types[0])
            case msgspec.inspect.StructType():
                return {field.encode_name: value(field.type) for field in kind.fields}
        raise AssertionError(kind)

    return msgspec.convert(value(msgspec.inspect.type_info(struct)), struct)


def vectors() -> list[dict[str, Any]]:
    codec = Codec()
    made = []
    for schema in sorted(schemas().values(), key=lambda one: one.name):
        record = _sample(schema.struct)
        made.append(
            {
                "name": schema.name,
                "fingerprint": schema.fingerprint.hex(),
                "canonical": schema.canonical,
                "fields": msgspec.to_builtins(record),
                "bytes": base64.b64encode(codec.encode(record)).decode(),
            }
        )
    return made


def test_the_vectors_are_what_the_code_writes() -> None:
    assert json.loads(VECTORS.read_text()) == vectors()


def test_the_vectors_are_read_as_they_were_written() -> None:
    codec = Codec()
    for one in json.loads(VECTORS.read_text()):
        record = codec.decode(base64.b64decode(one["bytes"]))
        assert type(record).__name__ == one["name"]
        assert msgspec.to_builtins(record) == one["fields"]


def test_a_record_of_an_earlier_version_is_read_with_defaults() -> None:
    start = schemas_by_name()["StartTurn"]
    written = json.loads(start.text)
    written["fields"] = [one for one in written["fields"] if one["name"] != "on_busy"]
    parsed = parse(json.dumps(written))
    number = bytes.fromhex(fingerprint(to_parsing_canonical_form(written), "CRC-64-AVRO"))
    out = BytesIO(b"\xc3\x01" + number)
    out.seek(0, 2)
    command = StartTurn(thread_id="t", text="x")
    schemaless_writer(out, parsed, msgspec.structs.asdict(command))

    assert isinstance(Codec().decode(out.getvalue()), UnknownEvent)
    codec = Codec(earlier={number: ("StartTurn", parsed)})
    assert codec.decode(out.getvalue()) == command


def test_every_fingerprint_that_was_published_is_known() -> None:
    """Of one that is missing the file before belongs into `schemas/records/avro/earlier`."""
    known = {schema.fingerprint.hex() for schema in schemas().values()}
    known |= {number.hex() for number in earlier_schemas()}
    published = {line.split()[1] for line in PUBLISHED.read_text().splitlines()}
    assert published <= known
    assert {schema.fingerprint.hex() for schema in schemas().values()} <= published


def test_earlier_schemas_stand_under_their_fingerprints() -> None:
    for number, (name, parsed) in earlier_schemas().items():
        assert name in schemas_by_name()
        canonical = to_parsing_canonical_form(parsed)
        assert bytes.fromhex(fingerprint(canonical, "CRC-64-AVRO")) == number


if __name__ == "__main__":
    lines = (json.dumps(one, ensure_ascii=False) for one in vectors())
    sys.stdout.write("[\n" + ",\n".join(lines) + "\n]\n")
