"""Tokens encoded by hand are the bytes that the general way gives."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from turnstream.connectors.avro import Codec
from turnstream.connectors.avro_tokens import TokenEncoder
from turnstream.schemas.events import TokensEmitted
from turnstream.schemas.ids import event_id

TEXT = st.text(max_size=200)
LONG = st.integers(0, 2**62)
CODECS = [Codec(), Codec(ids={"TokensEmitted": 70_000}, writers={})]


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
