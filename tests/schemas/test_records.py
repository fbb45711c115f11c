"""The `.avsc` files are the truth; Structs mirror them, and readers of Apache's library agree."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import get_args

import avro.io
import avro.schema
import msgspec
import msgspec.inspect
import pytest

from turnstream.schemas.records.events import EVENTS, Event
from turnstream.schemas.records.known import schemas, schemas_by_name

ALL = sorted(schemas().values(), key=lambda schema: schema.name)


def _avro_type(kind: msgspec.inspect.Type) -> object:
    match kind:
        case msgspec.inspect.StrType() | msgspec.inspect.LiteralType():
            return "string"
        case msgspec.inspect.IntType():
            return "long"
        case msgspec.inspect.BoolType():
            return "boolean"
        case msgspec.inspect.BytesType():
            return "bytes"
        case msgspec.inspect.ListType():
            return {"array": _avro_type(kind.item_type)}
        case msgspec.inspect.UnionType():
            return [
                "null" if isinstance(one, msgspec.inspect.NoneType) else _avro_type(one)
                for one in sorted(
                    kind.types, key=lambda t: isinstance(t, msgspec.inspect.StructType)
                )
            ]
        case msgspec.inspect.StructType():
            return {field.encode_name: _avro_type(field.type) for field in kind.fields}
    raise AssertionError(kind)


def _file_type(kind: object, named: dict[str, object]) -> object:
    """The type in short; `named` holds the records that stood before in the file."""
    if isinstance(kind, list):
        return [_file_type(one, named) for one in kind]
    if isinstance(kind, dict):
        if kind["type"] == "array":
            return {"array": _file_type(kind["items"], named)}
        if kind["type"] == "record":
            fields = {field["name"]: _file_type(field["type"], named) for field in kind["fields"]}
            named[kind["name"]] = fields
            return fields
        return kind["type"]
    return named.get(str(kind), kind)


@pytest.mark.parametrize("schema", ALL, ids=lambda schema: schema.name)
def test_struct_mirrors_file(schema):
    written = json.loads(schema.text)
    info = msgspec.inspect.type_info(schema.struct)
    assert [field.name for field in info.fields] == [field["name"] for field in written["fields"]]
    named: dict[str, object] = {}
    for ours, theirs in zip(info.fields, written["fields"], strict=True):
        assert _avro_type(ours.type) == _file_type(theirs["type"], named), ours.name
        assert ours.required == ("default" not in theirs), ours.name
        if not ours.required:
            default = ours.default_factory() if ours.default is msgspec.NODEFAULT else ours.default
            wanted = default.decode("latin-1") if isinstance(default, bytes) else default
            assert theirs["default"] == wanted, ours.name


def test_every_file_has_a_struct():
    there = {
        file.name.removesuffix(".avsc")
        for file in (files("turnstream.schemas.records") / "avro").iterdir()
        if file.name.endswith(".avsc")
    }
    assert there == set(schemas_by_name())


def test_every_event_has_the_envelope_first():
    envelope = [field.name for field in msgspec.structs.fields(Event)]
    for event in EVENTS:
        names = [field.name for field in msgspec.structs.fields(event)]
        assert names[: len(envelope)] == envelope, event


@pytest.mark.parametrize("schema", ALL, ids=lambda schema: schema.name)
def test_apache_library_gives_the_same_fingerprint(schema):
    theirs = avro.schema.parse(schema.text)
    assert theirs.fingerprint("CRC-64-AVRO") == schema.fingerprint


@pytest.mark.parametrize("schema", ALL, ids=lambda schema: schema.name)
def test_files_hold_nothing_that_libraries_canonicalise_differently(schema):
    """Some keep logical types, aliases or defaults of enums in the canonical form."""

    def walk(part):
        if isinstance(part, dict):
            assert not part.keys() & {"logicalType", "aliases", "order", "symbols", "size"}, part
            for one in part.values():
                walk(one)
        elif isinstance(part, list):
            for one in part:
                walk(one)

    walk(json.loads(schema.text))


def test_literals_are_checked_where_commands_are_read():
    start = schemas_by_name()["StartTurn"].struct
    policies = get_args(msgspec.structs.fields(start)[-1].type)
    assert policies == ("enqueue", "reject", "interrupt", "rollback")
    with pytest.raises(msgspec.ValidationError, match="on_busy"):
        msgspec.convert({"thread_id": "t", "on_busy": "shout"}, start)
