"""Any record survives the wire; anything else is refused with a code."""

from __future__ import annotations

import io
import json

import avro.io
import avro.schema
import msgspec
import msgspec.inspect
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from turnstream.connectors.avro import SINGLE_OBJECT, Codec
from turnstream.schemas.errors import UndecodableError, UnknownSchemaError
from turnstream.schemas.records.events import EVENTS, TokensEmitted, UnknownEvent
from turnstream.schemas.records.known import schemas, schemas_by_name
from turnstream.schemas.records.results import RESULTS

CODEC = Codec()
INT64 = st.integers(-(2**63), 2**63 - 1)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


def _values(kind):
    match kind:
        case msgspec.inspect.StrType():
            return TEXT
        case msgspec.inspect.IntType():
            return INT64
        case msgspec.inspect.BoolType():
            return st.booleans()
        case msgspec.inspect.BytesType():
            return st.binary(max_size=20)
        case msgspec.inspect.NoneType():
            return st.none()
        case msgspec.inspect.LiteralType():
            return st.sampled_from(kind.values)
        case msgspec.inspect.ListType():
            return st.lists(_values(kind.item_type), max_size=3)
        case msgspec.inspect.UnionType():
            return st.one_of([_values(one) for one in kind.types])
    return st.builds(kind.cls, **{field.name: _values(field.type) for field in kind.fields})


RECORDS = st.one_of([_values(msgspec.inspect.type_info(one)) for one in (*EVENTS, *RESULTS)])


@given(RECORDS)
@settings(max_examples=300, deadline=None)
def test_round_trip(record):
    assert CODEC.decode(CODEC.encode(record)) == record


@given(RECORDS)
@settings(max_examples=100, deadline=None)
def test_apache_library_reads_what_we_write(record):
    schema = schemas()[type(record)]
    plain = avro.schema.parse(json.dumps(schema.parsed))
    reader = avro.io.DatumReader(plain)
    fields = reader.read(avro.io.BinaryDecoder(io.BytesIO(CODEC.encode(record)[10:])))
    for name in record.__struct_fields__:
        value = getattr(record, name)
        if isinstance(value, str | int | bytes):
            assert fields[name] == value


@given(st.binary(max_size=200))
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_a_record_or_an_error_with_a_code(data):
    for head in (b"", SINGLE_OBJECT, CODEC.frame(TokensEmitted), b"\0\0\0\0\1"):
        try:
            CODEC.decode(head + data)
        except UndecodableError as error:
            assert error.code in {
                *("empty", "not_avro", "corrupt", "unknown_schema"),
                *("not_json", "not_a_result"),
            }


def test_confluent_framing_reads_older_writers():
    name = "TokensEmitted"
    older = json.loads(schemas_by_name()[name].text)
    older["fields"] = [
        {**field, "type": "long"} if isinstance(field["type"], dict) else field
        for field in older["fields"]
        if field["name"] not in {"tool_name", "tool_call_id"}
    ]
    from fastavro import parse_schema, schemaless_writer

    out = io.BytesIO()
    event = TokensEmitted(
        event_id="t-1-1", tenant="a", thread_id="b", turn_id="t", epoch=1, n=1,
        message_id="m", block=0, kind="text", text="hi",
    )  # fmt: skip
    fields = {field: getattr(event, field) for field in event.__struct_fields__}
    schemaless_writer(out, parse_schema(older), fields)
    codec = Codec(ids={name: 7}, writers={6: (name, parse_schema(older))})
    assert codec.decode(b"\0\0\0\0\6" + out.getvalue()) == event
    assert codec.encode(event)[:5] == b"\0\0\0\0\7"
    with pytest.raises(UnknownSchemaError, match="no schema 9"):
        codec.decode(b"\0\0\0\0\x09" + out.getvalue())


def test_unknown_fingerprint_is_kept():
    data = SINGLE_OBJECT + b"12345678" + b"anything"
    assert CODEC.decode(data) == UnknownEvent(type="fingerprint:3132333435363738", data=data)


def test_lone_surrogate_is_refused_by_name():
    event = TokensEmitted(
        event_id="", tenant="", thread_id="", turn_id="", epoch=1, n=1,
        message_id="m", block=0, kind="text", text="\ud800",
    )  # fmt: skip
    with pytest.raises(UndecodableError, match="lone surrogate") as caught:
        CODEC.encode(event)
    assert caught.value.code == "invalid_text"
