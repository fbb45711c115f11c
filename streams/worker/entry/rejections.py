"""The result of a record that became a dead letter: its backend waits for a turn. Pure.

A `TurnResult` with status `rejected`, code `dead_letter` and the letter's `letter_id`; its message
begins with the letter's code. The turn's id is the one that the record would have had, so after a
requeue the turn's own result follows under the same id and replaces this one.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import msgspec

from turnstream.schemas.errors import InvalidRequestError
from turnstream.schemas.ids import check_tenant, check_thread_id, parse_turn_id, turn_id_of_key
from turnstream.schemas.records.commands import CancelTurn, Command
from turnstream.schemas.records.results import DEAD_LETTER, TurnResult
from turnstream.schemas.text import clean_text

if TYPE_CHECKING:
    from collections.abc import Callable

    from turnstream.connectors.avro import Codec
    from turnstream.schemas.records.results import DeadLetter

LABEL_CHARS_MAX = 2000
"""Of a field that is given back though the record was refused; a longer one is left out."""

_BOM = b"\xef\xbb\xbf"


class Named(msgspec.Struct, frozen=True, kw_only=True):
    """What a refused record says of itself, as far as it can be read; texts may be of any form."""

    type: object = ""
    tenant: object = ""
    thread_id: object = ""
    turn_id: object = ""
    idempotency_key: object = ""
    correlation_id: object = ""
    actor: object = ""
    traceparent: object = ""

    def text(self, field: str) -> str:
        """Return a field, "" if it is no text or too long to be given back."""
        value = getattr(self, field)
        if not isinstance(value, str) or len(value) > LABEL_CHARS_MAX:
            return ""
        return clean_text(value)


NOTHING = Named()


def named_in(value: bytes, wire: Codec) -> Named:
    """Read what a refused record says of itself; never raises."""
    try:
        value = value.removeprefix(_BOM)
        if value[:1] == b"{":
            given = json.loads(value)  # it reads lone surrogates, as commands do
            return Named(**{name: given[name] for name in Named.__struct_fields__ if name in given})
        record = wire.decode(value)
    except Exception:  # noqa: BLE001  it was refused, so anything may be wrong with it
        return NOTHING
    if not isinstance(record, Command):
        return NOTHING
    fields = {field: getattr(record, field, "") for field in Named.__struct_fields__}
    return Named(**{**fields, "type": type(record).__name__})


def rejection_of(letter: DeadLetter, named: Named, timestamp_ms: int) -> TurnResult | None:
    """Return the result; None where no tenant is known, and for a cancel, which is no turn.

    It follows from the record alone, so that repeats are equal. `timestamp_ms` is the record's.
    """
    tenant = letter.tenant or _checked(check_tenant, named.text("tenant"))
    if not tenant or named.type == CancelTurn.__name__:
        return None
    return TurnResult(
        event_id=f"{letter.letter_id}-dead-letter-{letter.requeues}",
        tenant=tenant,
        thread_id=_checked(check_thread_id, named.text("thread_id")),
        turn_id=_turn_id(letter, named, tenant),
        correlation_id=named.text("correlation_id"),
        status="rejected",
        code=DEAD_LETTER,
        message=f"{letter.code}: {letter.message}",
        letter_id=letter.letter_id,
        at=max(0, timestamp_ms) * 1000,
        actor=named.text("actor"),
        traceparent=named.text("traceparent"),
    )


def _turn_id(letter: DeadLetter, named: Named, tenant: str) -> str:
    """Return the id that the record's turn would have; its letter's where it has no other.

    A turn id that another command came under belongs to that one.
    """
    if letter.code == "turn_id_reused":
        return letter.letter_id
    given = named.text("turn_id")
    if given:
        try:
            return str(parse_turn_id(given))
        except InvalidRequestError:
            return letter.letter_id
    key = named.text("idempotency_key")
    return str(turn_id_of_key(tenant, key)) if key else letter.letter_id


def _checked(check: Callable[[str], str], text: str) -> str:
    try:
        return check(text)
    except InvalidRequestError:
        return ""
