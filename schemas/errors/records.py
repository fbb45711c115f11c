"""Records that cannot be read or written."""

from __future__ import annotations

from turnstream.schemas.errors.root import TurnstreamError


class UndecodableError(TurnstreamError):
    """The bytes are no record that turnstream can read."""

    code = "undecodable"
    status = 400


class UnknownSchemaError(UndecodableError):
    """The record names a schema that the registry does not know."""

    code = "unknown_schema"


class BatchUnreadableError(UndecodableError):
    """A batch of records cannot be read; its dead letter names the offsets and the codec.

    Codes: `corrupt_batch`, `bad_crc`, `unknown_codec`, `unsupported_format`, and `batch_too_large`
    for one that decompresses to more than `TURNSTREAM_BATCH_BYTES_MAX` bytes.
    """

    code = "corrupt_batch"


class RecordTooLargeError(TurnstreamError):
    """The record is larger than its topic allows."""

    code = "record_too_large"
    status = 413
