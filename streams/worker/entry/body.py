"""What the ledger keeps of a command, and the digest of what it asks for: of one encoding. Pure."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import msgspec

from turnstream.connectors.avro_tokens import string, varint

if TYPE_CHECKING:
    from turnstream.connectors.avro import Codec
    from turnstream.schemas.records.commands import Command


def body_of(command: Command, store: Codec) -> tuple[bytes, bytes]:
    """Return the command as `store` encodes it, and its digest.

    The digest covers the command with `at` 0 and without `traceparent`, because a redelivery may
    differ in these two. Both are put into the bytes that were digested.
    """
    bare = store.encode(msgspec.structs.replace(command, at=0, traceparent=""))
    digest = hashlib.sha256(bare).digest()
    names = (command.tenant, command.thread_id, command.turn_id, command.idempotency_key)
    before = len(store.frame(type(command))) + sum(len(string(name)) for name in names)
    actor = string(command.actor)
    after = before + 1 + len(actor)  # an `at` of 0 is one byte, and so is an empty `traceparent`
    body = b"".join(
        (
            bare[:before],
            varint(command.at),
            actor,
            string(command.traceparent),
            bare[after + 1 :],
        )
    )
    return body, digest
