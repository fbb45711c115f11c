"""Records to bytes and back: Avro single-object encoding, or Confluent framing with a registry.

Single-object: `C3 01`, the schema's CRC-64-AVRO fingerprint (8 bytes, little-endian), the record.
Confluent: `00`, the registry's schema id (4 bytes, big-endian), the record. A reader tells the two
apart, and both from JSON (`{`), by the first byte. About 4 µs a record (fastavro).
"""

from __future__ import annotations

from io import BytesIO

import msgspec
from fastavro import schemaless_reader, schemaless_writer

from turnstream.schemas.errors import UndecodableError, UnknownSchemaError
from turnstream.schemas.records.events import UnknownEvent
from turnstream.schemas.records.known import Schema, earlier_schemas, schemas
from turnstream.schemas.records.result_json import result_of_json

SINGLE_OBJECT = b"\xc3\x01"
CONFLUENT = 0


class Codec:
    """Encode and decode records.

    With `ids` (record name to registry id) it writes Confluent framing; `writers` maps the ids that
    it may meet to the schema they were written with (name and parsed Avro schema), so that records
    of older schemas are read under today's. Without, it writes single-object encoding. `earlier`
    has the schemas of earlier versions by fingerprint; None: those in the package.
    """

    def __init__(
        self,
        ids: dict[str, int] | None = None,
        writers: dict[int, tuple[str, dict[str, object]]] | None = None,
        earlier: dict[bytes, tuple[str, dict[str, object]]] | None = None,
    ) -> None:
        known = schemas()
        self._by_name = {schema.name: schema for schema in known.values()}
        by_fingerprint = earlier_schemas() if earlier is None else earlier
        self._by_fingerprint = {
            fingerprint: (parsed, self._by_name[name])
            for fingerprint, (name, parsed) in by_fingerprint.items()
        }
        for schema in known.values():
            self._by_fingerprint[schema.fingerprint] = (schema.parsed, schema)
        self._writers = writers or {}
        self._out: dict[type[msgspec.Struct], tuple[bytes, Schema]] = {
            struct: (
                SINGLE_OBJECT + schema.fingerprint
                if ids is None
                else b"\0" + ids[schema.name].to_bytes(4, "big"),
                schema,
            )
            for struct, schema in known.items()
            if ids is None or schema.name in ids
        }

    def frame(self, struct: type[msgspec.Struct]) -> bytes:
        """Return the bytes that stand before every record of this type."""
        return self._out[struct][0]

    def encode(self, record: msgspec.Struct) -> bytes:
        """Return the record with its framing.

        Raises `UndecodableError` (`invalid_text`) where a text cannot be UTF-8 (lone surrogates).
        """
        frame, schema = self._out[type(record)]
        out = BytesIO()
        out.write(frame)
        fields = msgspec.to_builtins(record) if schema.nested else msgspec.structs.asdict(record)
        try:
            schemaless_writer(out, schema.parsed, fields)
        except UnicodeEncodeError as error:
            raise UndecodableError(
                f"{schema.name}: a text holds a lone surrogate", code="invalid_text"
            ) from error
        return out.getvalue()

    def decode(self, data: bytes) -> msgspec.Struct:
        """Return the record, or `UnknownEvent` for a schema that a newer writer may have used.

        A JSON object is read as a `TurnResult`, which tenants may ask for in JSON.

        Raises `UndecodableError`: `empty`, `not_avro`, `corrupt`, `not_json`, `not_a_result`;
        `UnknownSchemaError` for a registry id that the registry does not know.
        """
        if data[:2] == SINGLE_OBJECT and len(data) >= 10:  # noqa: PLR2004  2 + 8 bytes of framing
            found = self._by_fingerprint.get(bytes(data[2:10]))
            if found is None:
                return UnknownEvent(type=f"fingerprint:{data[2:10].hex()}", data=bytes(data))
            return self._read(data, 10, *found)
        if data[:1] == b"\0" and len(data) >= 5:  # noqa: PLR2004  1 + 4 bytes of framing
            schema_id = int.from_bytes(data[1:5], "big")
            writer = self._writers.get(schema_id)
            if writer is None:
                raise UnknownSchemaError(f"the registry has no schema {schema_id}")
            name, parsed = writer
            schema = self._by_name.get(name)
            if schema is None:
                return UnknownEvent(type=name, data=bytes(data))
            return self._read(data, 5, parsed, schema)
        if not data:
            raise UndecodableError("the record is empty", code="empty")
        if data[:1] == b"{":
            return result_of_json(data)
        raise UndecodableError(f"first byte {data[0]:#04x} is no known framing", code="not_avro")

    def _read(
        self, data: bytes, start: int, writer: dict[str, object], schema: Schema
    ) -> msgspec.Struct:
        source = BytesIO(data)
        source.seek(start)
        try:
            reader = None if writer is schema.parsed else schema.parsed
            record = _build(schema, schemaless_reader(source, writer, reader))
        except Exception as error:
            # the bytes are foreign, and so may be the writer's schema: fastavro raises anything
            raise UndecodableError(f"{schema.name}: {error!r:.300}", code="corrupt") from error
        if source.tell() != len(data):
            raise UndecodableError(f"{schema.name}: bytes left over", code="corrupt")
        return record


def _build(schema: Schema, fields: object) -> msgspec.Struct:
    if schema.nested:
        return msgspec.convert(fields, schema.struct, strict=False)
    if not isinstance(fields, dict):  # the writer's schema is foreign too
        raise TypeError(f"a record was expected, {type(fields).__name__} came")
    return schema.struct(**fields)
