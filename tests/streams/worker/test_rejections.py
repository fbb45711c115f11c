"""What a refused record's backend is told: which turn, which tenant, and what may follow."""

from __future__ import annotations

import json
import uuid
from typing import Any

import msgspec
import pytest

from turnstream.connectors.avro import Codec
from turnstream.schemas.ids import turn_id_of_key
from turnstream.schemas.records.commands import CancelTurn, ResumeTurn, StartTurn
from turnstream.schemas.records.results import DeadLetter, TurnResult
from turnstream.streams.worker.entry.rejections import (
    LABEL_CHARS_MAX,
    NOTHING,
    named_in,
    rejection_of,
)

CODEC = Codec()
TURN = "0d9a1f5e-53a5-4f4e-9a0e-b3a0a4f3a111"
LETTER = str(uuid.uuid5(uuid.NAMESPACE_OID, "letter"))


def letter(**changes: Any) -> DeadLetter:
    fields: dict[str, Any] = {
        "code": "not_json",
        "message": "a bracket is missing",
        "tenant": "acme",
        "topic": "turns.acme",
        "partition": 3,
        "offset": 17,
        "at": 1,
        "letter_id": LETTER,
    }
    return DeadLetter(**{**fields, **changes})


def rejection(value: bytes, **changes: Any) -> TurnResult | None:
    return rejection_of(letter(**changes), named_in(value, CODEC), 1_700_000_000_000)


def line(**fields: Any) -> bytes:
    return json.dumps({"thread_id": "t", **fields}).encode()


def test_a_rejection_names_letter_turn_and_correlation() -> None:
    found = rejection(line(turn_id=TURN, correlation_id="c", actor="a", unknown_field=1))
    assert found == TurnResult(
        event_id=f"{LETTER}-dead-letter-0",
        tenant="acme",
        thread_id="t",
        turn_id=TURN,
        correlation_id="c",
        status="rejected",
        code="dead_letter",
        message="not_json: a bracket is missing",
        at=1_700_000_000_000_000,
        actor="a",
        letter_id=LETTER,
    )
    assert CODEC.decode(CODEC.encode(found)) == found


@pytest.mark.parametrize(
    ("value", "turn_id"),
    [
        (line(turn_id=TURN), TURN),
        (line(turn_id=TURN.upper()), TURN),
        (line(idempotency_key="order-7"), str(turn_id_of_key("acme", "order-7"))),
        (line(turn_id=TURN, idempotency_key="order-7"), TURN),
        (line(turn_id="turn-1"), LETTER),
        (line(turn_id=17), LETTER),
        (line(turn_id=None, idempotency_key=None), LETTER),
        (line(), LETTER),
        (line(idempotency_key="x" * (LABEL_CHARS_MAX + 1)), LETTER),
        (b"\xef\xbb\xbf" + line(turn_id=TURN), TURN),
        (b'{"turn_id": "' + TURN.encode(), LETTER),
        (b'{"a":' + b"[" * 100_000, LETTER),
        (b"", LETTER),
        (b"\xc3\x01garbage", LETTER),
        (CODEC.encode(StartTurn(thread_id="t", turn_id=TURN, text="x")), TURN),
        (CODEC.encode(ResumeTurn(thread_id="t", turn_id=TURN, answers="{}")), TURN),
    ],
)
def test_the_turn_is_the_one_that_a_requeue_would_run(value: bytes, turn_id: str) -> None:
    found = rejection(value)
    assert found is not None
    assert found.turn_id == turn_id


def test_a_turn_id_of_another_command_is_left_to_it() -> None:
    found = rejection(line(turn_id=TURN), code="turn_id_reused")
    assert found is not None
    assert found.turn_id == LETTER


@pytest.mark.parametrize(
    "value",
    [line(type="CancelTurn", turn_id=TURN), CODEC.encode(CancelTurn(thread_id="t", turn_id=TURN))],
)
def test_a_cancel_is_no_turn(value: bytes) -> None:
    assert rejection(value) is None


def test_on_the_edges_own_topic_the_record_names_its_tenant() -> None:
    found = rejection(line(tenant="acme"), tenant="")
    assert found is not None
    assert found.tenant == "acme"
    assert rejection(line(tenant="a/b"), tenant="") is None
    assert rejection_of(letter(tenant=""), NOTHING, 0) is None


def test_texts_that_cannot_be_written_are_made_writable() -> None:
    found = rejection(b'{"thread_id": "a\\nb", "correlation_id": "\\ud800", "actor": ["x"]}')
    assert found is not None
    assert (found.thread_id, found.correlation_id, found.actor) == ("", "\ufffd", "")
    assert msgspec.structs.asdict(found) == msgspec.structs.asdict(
        CODEC.decode(CODEC.encode(found))
    )
