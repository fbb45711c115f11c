"""Tokens encoded by hand are the bytes that the general way gives, and read as it reads them."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from turnstream.connectors.avro import Codec
from turnstream.connectors.avro_tokens import TokenDecoder, TokenEncoder
from turnstream.schemas.errors import UndecodableError
from turnstream.schemas.ids import event_id
from turnstream.schemas.records.events import CustomEmitted, TokensEmitted
from turnstream.schemas.records.known import schemas

TEXT = st.text(max_size=200)
LONG = st.integers(0, 2**62)
PARSED = schemas()[TokensEmitted].parsed
CODECS = [Codec(), Codec({"TokensEmitted": 70_000}, {70_000: ("TokensEmitted", PARSED)})]


@given(st.data(), TEXT, TEXT, st.uuids().map(str), LONG, TEXT, TEXT)
@settings(max_examples=150, deadline=None)
def test_the_same_bytes(data, tenant, thread_id, turn_id, epoch, actor, trace) -> None:
    codec = data.draw(st.sampled_from(CODECS))
    envelope = {
        "tenant": tenant,
        "thread_id": thread_id,
        "turn_id": turn_id,
        "epoch": epoch,
        "actor": actor,
        "traceparent": trace,
    }
    by_hand = TokenEncoder(codec, **envelope)
    blocks = [
        (data.draw(TEXT), data.draw(TEXT), data.draw(st.integers(0, 10_000)), kind)
        for kind in ("text", "reasoning", "tool_args")
    ]
    for block in data.draw(st.lists(st.sampled_from(blocks), max_size=5)):
        n, at, text = data.draw(LONG), data.draw(LONG), data.draw(TEXT)
        call, name = data.draw(TEXT), data.draw(TEXT)
        path, message_id, index, kind = block
        record = TokensEmitted(
            event_id=event_id(turn_id, epoch, n),
            n=n,
            at=at,
            path=path,
            message_id=message_id,
            block=index,
            kind=kind,
            text=text,
            tool_call_id=call,
            tool_name=name,
            **envelope,
        )
        assert by_hand.encode(n, at, block, text, (call, name)) == codec.encode(record)


def read(decoder: Codec | TokenDecoder, data: bytes) -> object:
    try:
        return decoder.decode(data)
    except UndecodableError as error:
        return error.code


# what lies at the edges of the hand decoder: lengths and numbers of one, two and three bytes
SIZES = st.sampled_from([0, 1, 31, 32, 63, 64, 8191, 8192]) | st.integers(0, 300)
POSITIONS = st.sampled_from([1, 63, 64, 8191, 8192, 1 << 20, (1 << 20) - 1]) | LONG
MOMENTS = st.integers(1_700_000_000_000_000, 1_900_000_000_000_000) | LONG


@given(st.data(), st.uuids().map(str), TEXT, LONG)
@settings(max_examples=150, deadline=None)
def test_read_the_same(data, turn_id, thread_id, epoch) -> None:
    codec = data.draw(st.sampled_from(CODECS))
    envelope = {"tenant": "t", "thread_id": thread_id, "turn_id": turn_id, "epoch": epoch}
    by_hand, decoder = (
        TokenEncoder(codec, actor="", traceparent="", **envelope),
        TokenDecoder(codec),
    )
    blocks = [("a|b", "m", 0, "text"), ("a|b", "m", 1, "tool_args"), ("a|c", "m", 0, "text")]
    for _ in range(data.draw(st.integers(2, 5))):
        block = data.draw(st.sampled_from(blocks))
        text = data.draw(TEXT) * 2 + "x" * data.draw(SIZES)
        call = data.draw(st.sampled_from([("", ""), ("c", ""), ("c", "n")]))
        record = by_hand.encode(data.draw(POSITIONS), data.draw(MOMENTS), block, text, call)
        assert decoder.decode(record) == codec.decode(record)
        # the same of what is broken, and of what only looks alike
        at, byte = data.draw(st.integers(0, len(record) - 1)), data.draw(st.integers(0, 255))
        for other in (
            record[:at] + bytes((byte,)) + record[at + 1 :],
            record[:at],
            record + b"\0",
        ):
            assert read(decoder, other) == read(codec, other)


def test_most_tokens_are_not_decoded_the_general_way() -> None:
    codec = Codec()
    seen: list[bytes] = []

    class Counting(Codec):
        def decode(self, data: bytes):
            seen.append(data)
            return super().decode(data)

    turns = [f"01900000-0000-7000-8000-00000000000{number}" for number in range(3)]
    encoders = [
        TokenEncoder(
            codec, tenant="t", thread_id="x", turn_id=turn, epoch=1, actor="a", traceparent=""
        )
        for turn in turns
    ]
    records = [
        encoder.encode(n, 1_760_000_000_000_000 + n, ("p", "m", 0, "text"), f"token {n}")
        for n in range(1, 9000)
        for encoder in encoders
    ]
    decoder = TokenDecoder(Counting())
    assert [decoder.decode(record).n for record in records] == [
        n for n in range(1, 9000) for _ in turns
    ]
    assert len(seen) == len(turns)


def test_other_records_pass() -> None:
    record = CustomEmitted(
        event_id="e", tenant="t", thread_id="x", turn_id="u", epoch=1, n=1, name="", payload="{}"
    )
    assert TokenDecoder(Codec()).decode(Codec().encode(record)) == record
