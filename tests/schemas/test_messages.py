"""A message as far as it was said."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from turnstream.schemas.fold.messages import Message
from turnstream.schemas.records.events import MessageFinished, MessageStarted, TokensEmitted, Usage
from turnstream.schemas.text import text_sha256

ENVELOPE: dict[str, Any] = {
    "event_id": "e",
    "tenant": "t",
    "thread_id": "th",
    "turn_id": "u",
    "epoch": 1,
}


def tokens(block: int, kind: Any, text: str, call: str = "", name: str = "") -> TokensEmitted:
    return TokensEmitted(
        **ENVELOPE,
        n=2,
        message_id="m",
        block=block,
        kind=kind,
        text=text,
        tool_call_id=call,
        tool_name=name,
    )


def test_a_message_comes_from_its_records() -> None:
    start = MessageStarted(**ENVELOPE, n=1, path="p", message_id="m", role="assistant", name="x")
    message = Message.of(start)
    assert (message.finished, message.intact, message.text) == (False, None, "")
    for record in (
        tokens(2, "text", "wor"),
        tokens(0, "reasoning", "hm"),
        tokens(1, "text", "hello "),
        tokens(2, "text", "ld"),
        tokens(4, "tool_args", '{"a":', "c1", "add"),
        tokens(3, "tool_args", "{}", "", "sub"),
        tokens(3, "tool_args", "", "c2", "other"),
        tokens(4, "tool_args", "1}"),
    ):
        message.take(record)
    assert (message.text, message.reasoning) == ("hello world", "hm")
    calls = [(call.call, call.tool_call_id, call.tool_name, call.text) for call in message.calls]
    assert calls == [(0, "c1", "add", '{"a":1}'), (1, "c2", "sub", "{}")]
    usage = Usage(model="m", input_tokens=1, output_tokens=2)
    message.finish(
        MessageFinished(
            **ENVELOPE,
            n=9,
            message_id="m",
            finish_reason="stop",
            usage=usage,
            sha256=text_sha256("hello world"),
        )
    )
    assert (message.finished, message.finished_n, message.finish_reason) == (True, 9, "stop")
    assert (message.intact, message.usage) == (True, usage)


@given(st.lists(st.text(max_size=3)), st.sets(st.integers(0, 20)))
def test_pieces_and_looks_between_them_change_nothing(pieces: list[str], looks: set[int]) -> None:
    one, other = Message("m"), Message("m")
    one.add(0, "text", "".join(pieces))
    for place, piece in enumerate(["", *pieces]):
        other.add(0, "text", piece)
        if place in looks:
            assert other.text == "".join(pieces[:place])
    assert one == other
    other.add(0, "text", "!")
    assert one != other
