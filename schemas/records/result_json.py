"""Results as JSON, for the tenants that `TURNSTREAM_JSON_RESULT_TENANTS` names. Pure.

A result is one JSON object: `"type": "TurnResult"` and the fields of `TurnResult`. `payload` and
`response_schema` of an interrupt hold JSON text, as in Avro.
"""

from __future__ import annotations

import msgspec

from turnstream.schemas.errors import UndecodableError
from turnstream.schemas.records.results import TurnResult

_TYPE = "TurnResult"


class _Written(TurnResult, frozen=True, kw_only=True, tag_field="type", tag=_TYPE):
    """A result with its type in front."""


_decoder = msgspec.json.Decoder(_Written)


def json_of_result(result: TurnResult) -> bytes:
    """Return the result as one line of UTF-8 JSON, all fields written."""
    return msgspec.json.encode({"type": _TYPE, **msgspec.structs.asdict(result)})


def result_of_json(data: bytes) -> TurnResult:
    """Return the result; raises `UndecodableError` (`not_json`, `not_a_result`)."""
    try:
        written = _decoder.decode(data)
    except msgspec.ValidationError as error:
        raise UndecodableError(f"the JSON is no result: {error}", code="not_a_result") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UndecodableError("the record is not JSON", code="not_json") from error
    return TurnResult(**msgspec.structs.asdict(written))
