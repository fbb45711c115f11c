"""Hostile answers for the reader of model streams, drawn from a seed.

    .venv/bin/python tests/connectors/models/fuzz_reader.py --seconds 600

A case is a good answer that is then spoiled: events are dropped, repeated or moved, fields are
dropped or get another type, errors and noise are put between, bytes are cut or changed. `check`
raises `AssertionError` where the reader does anything but read it or refuse it with an error of the
project, and where it takes for whole what is not: `truth` works that out from the events alone.
"""

from __future__ import annotations

import argparse
import json
import random
import time
import uuid
from dataclasses import dataclass, field
from typing import Any

from turnstream.connectors.avro import Codec
from turnstream.connectors.memory.emitter import MemoryEmitter
from turnstream.connectors.models.openai.deltas import DeltaParser
from turnstream.connectors.models.openai.refusals import MESSAGE_CHARS_MAX, error_of_event
from turnstream.graph.agent.answer import Answer
from turnstream.schemas.chat import ChatAnswer, Delta
from turnstream.schemas.errors import ModelBadResponseError, ModelError

NAMES = ("add", "calculate")
TEXTS = ("a", " word", "흐름", "🌊", "<think>", "</think>", "<", "\n", "\ud83d", "\ude00", "\x00",
         "data: x", '"', "")  # fmt: skip
ODD = (None, True, 0, -1, 5.5, 1e30, 10**30, "", "5", "x", [], {}, [None], {"a": 1}, [[1]],
       {"type": "text", "text": "p"}, [{"type": "text", "text": "p"}], "\ud800")  # fmt: skip
ERRORS: tuple[dict[str, Any], ...] = (
    {"error": {"message": "m", "code": 500}}, {"error": "m"}, {"object": "error", "message": "m"},
    {"detail": "m"}, {"detail": [{"msg": "m", "loc": ["body"]}]}, {"message": "m", "type": "x"},
    {"errors": [{"message": "m"}]}, {"error": {"message": "http://h/ sk-aaaaaaaaaaaa"}},
    {"error": {"message": {"detail": "m"}}}, {"error": {}}, {"error": True},
)  # fmt: skip
NOISE = (": ping\n\n", "data:\n\n", "data: \n\n", "event: ping\ndata: {}\n\n", "retry: 1\n\n",
         "id: 1\n\n", "data: null\n\n", "\n", "\n\n", "unknown\n")  # fmt: skip
CODEC = Codec()


@dataclass
class Case:
    """An answer's events, and how its bytes are sent. An event is a value or a line of noise."""

    events: list[Any]
    line_end: str = "\n"
    cut: int = -1
    flips: list[tuple[int, int]] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)

    def data(self) -> bytes:
        whole = b"".join(map(self._frame, self.events))[: self.cut if self.cut >= 0 else None]
        changed = bytearray(whole)
        for at, byte in self.flips:
            if at < len(changed):
                changed[at] = byte
        return bytes(changed)

    def _frame(self, event: Any) -> bytes:
        text = event if isinstance(event, str) else f"data: {json.dumps(event)}\n\n"
        return text.replace("\n", self.line_end).encode()

    def complete(self) -> list[Any]:
        """Return the events whose data is in the bytes."""
        if self.cut < 0:
            return self.events
        found, at = [], 0
        for event in self.events:
            frame = self._frame(event)
            if at + len(frame.rstrip(b"\r\n")) > self.cut:
                break
            found.append(event)
            at += len(frame)
        return found


def draw(rng: random.Random) -> Case:
    events = _good(rng)
    for _ in range(rng.choice((0, 0, 1, 1, 2, 4))):
        _spoil(rng, events)
    case = Case(events, rng.choice(("\n", "\n", "\r\n", "\r")))
    size = len(case.data())
    if rng.random() < 0.3:
        case.cut = rng.randrange(size + 1)
    if rng.random() < 0.1 and size:
        case.flips = [(rng.randrange(size), rng.randrange(256)) for _ in range(rng.randint(1, 3))]
    case.sizes = [rng.choice((1, 2, 7, 50, 400)) for _ in range(rng.randrange(60))]
    return case


def _good(rng: random.Random) -> list[Any]:
    """Return the events of a whole answer, in OpenAI's form."""
    events: list[Any] = [_chunk({"role": "assistant", "content": ""})]
    events += [_chunk({"reasoning_content": rng.choice(TEXTS)}) for _ in range(rng.randrange(3))]
    events += [_chunk({"content": rng.choice(TEXTS)}) for _ in range(rng.randrange(6))]
    calls = rng.choice((0, 0, 1, 2))
    for index in range(calls):
        head = {"index": index, "id": f"c{index}", "function": {"name": rng.choice(NAMES)}}
        events.append(_chunk({"tool_calls": [head]}))
        events += [_chunk({"tool_calls": [{"index": index, "function": {"arguments": part}}]})
                   for part in ('{"a":', "1", "}")[: rng.choice((0, 3, 3))]]  # fmt: skip
    events.append(_chunk({}, "tool_calls" if calls else rng.choice(("stop", "length"))))
    events.append({"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 4}})
    events.append("data: [DONE]\n\n")
    return events


def _chunk(delta: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "finish_reason": reason}
    return {"id": "x", "created": 1, "model": "m", "choices": [choice], "usage": None}


def _spoil(rng: random.Random, events: list[Any]) -> None:
    at = rng.randrange(len(events))
    match rng.randrange(8):
        case 0:
            events.insert(rng.randrange(len(events) + 1), rng.choice(NOISE))
        case 1:
            events.insert(rng.randrange(len(events) + 1), rng.choice(ERRORS))
        case 2:
            events.insert(rng.randrange(len(events)), events.pop(at))
        case 3 if len(events) > 1:
            del events[at]
        case 4:
            events.insert(at, events[at])
        case 5:
            error = json.dumps(rng.choice(ERRORS))
            events.insert(at, rng.choice((f"error: {error}\n\n", f"event: error\ndata: {error}\n\n",
                                          "event: error\ndata: m\n\n", f"{error}\n")))  # fmt: skip
        case _ if isinstance(events[at], dict):
            events[at] = json.loads(json.dumps(events[at]))
            _retype(rng, events[at])


def _retype(rng: random.Random, value: Any) -> None:
    """Drop or replace one field, at any depth."""
    spots: list[tuple[Any, Any]] = []
    pending = [value]
    while pending:
        one = pending.pop()
        keys = list(one) if isinstance(one, dict) else range(len(one))
        spots += [(one, key) for key in keys]
        pending += [one[key] for key in keys if isinstance(one[key], (dict, list))]
    if not spots:
        return
    holder, key = rng.choice(spots)
    if rng.random() < 0.4 and isinstance(holder, dict):
        del holder[key]
    else:
        holder[key] = rng.choice(ODD)


def truth(events: list[Any]) -> tuple[bool, str | None]:
    """Tell whether events could be a whole answer, and its text; None where no simple rule has it.

    Events are read as the OpenAI reference says. A part of another form has no simple rule.
    """
    whole, texts, simple = False, [], True
    for event in events:
        if isinstance(event, str):
            if event.strip() == "data: [DONE]":
                break
            if "error" in event or event.startswith("{"):
                return False, None
            continue
        choices = event.get("choices")
        if "error" in event and event["error"] not in (None, False) and not choices:
            return False, None
        if not isinstance(choices, list) or not choices:
            continue
        choice = choices[0] if isinstance(choices[0], dict) else {}
        delta = choice.get("delta")
        reason = choice.get("finish_reason")
        whole = whole or (isinstance(reason, str) and reason not in ("", "null"))
        simple = simple and set(choice) >= {"index", "delta"} and choice["index"] == 0
        simple = simple and isinstance(delta, dict) and len(choices) == 1
        content = delta.get("content") if isinstance(delta, dict) else None
        if isinstance(content, str):
            texts.append(content)
        elif content is not None:
            simple = False
    return whole, "".join(texts) if simple else None


def check(case: Case) -> str:
    """Read a case; return `whole`, `refused`, `error` or `half`."""
    data, deltas, at = case.data(), [], 0
    parser = DeltaParser(NAMES)
    emitter = MemoryEmitter.started()
    answer = Answer(emitter, "task", str(uuid.UUID(int=1)), set())
    try:
        for size in (*case.sizes, len(data)):
            deltas += parser.feed(data[at : at + size])
            at += size
        deltas += parser.end()
    except ModelBadResponseError as error:
        assert len(str(error)) < 2 * MESSAGE_CHARS_MAX
        return "refused"
    _check_deltas(deltas)
    answer.push(deltas)
    answer.finish(
        ChatAnswer(
            finish_reason=parser.finish_reason,
            model=parser.model,
            request_sha256="0" * 64,
            usage=parser.usage,
        ),
        {},
    )
    for event in emitter.events:
        CODEC.encode(event)
    if parser.error is not None:
        _check_error(error_of_event(parser.error, {}), hides=not case.flips)
        assert not parser.whole
        return "error"
    if not parser.whole:
        return "half"
    if not case.flips:
        could_be, text = truth(case.complete())
        assert could_be, "half an answer is whole"
        if text is not None:
            said = "".join(d.text for d in deltas if d.kind != "tool_args")
            assert _letters(said) == _letters(text + _reasoning(case)), (said, text)
    return "whole"


def _reasoning(case: Case) -> str:
    texts = []
    for event in case.complete():
        if event == "data: [DONE]\n\n":
            break
        for choice in (event.get("choices") or ()) if isinstance(event, dict) else ():
            text = choice["delta"].get("reasoning_content") if isinstance(choice, dict) else ""
            texts.append(text if isinstance(text, str) else _parts(text))
    return "".join(texts)


def _parts(value: Any) -> str:
    if isinstance(value, dict):
        value = value.get("content") or value.get("text")
    if isinstance(value, list):
        return "".join(map(_parts, value))
    return value if isinstance(value, str) else ""


def _letters(text: str) -> list[str]:
    """Return the characters that neither tags, white space nor halves of characters make."""
    for tag in ("<think>", "</think>"):
        text = text.replace(tag, "")
    kept = (c for c in text if not c.isspace() and c not in "<>/think\ufffd🌊")
    return sorted(c for c in kept if not "\ud800" <= c <= "\udfff" and ord(c) < 1 << 16)


def _check_deltas(deltas: list[Delta]) -> None:
    calls: set[int] = set()
    for delta in deltas:
        delta.text.encode()
        delta.tool_name.encode()
        delta.tool_call_id.encode()
        if delta.kind == "tool_args":
            assert delta.index <= len(calls), "a call's number leaves one out"
            assert delta.index not in calls or not delta.tool_name, "a name comes twice"
            calls.add(delta.index)
        else:
            assert delta.text, "an empty delta"


def _check_error(error: ModelError, *, hides: bool) -> None:
    """Check an error; `hides`: no byte is changed, so that a key is one still."""
    assert len(str(error)) <= MESSAGE_CHARS_MAX + 60
    assert not hides or not ("http://" in str(error) or "sk-a" in str(error))
    str(error).encode()


def fuzz(seed: int, *, cases: int = 0, seconds: float = 0.0) -> dict[str, int]:
    """Check cases until so many are done, or so long; return how many came to what."""
    rng, counts = random.Random(seed), dict.fromkeys(("whole", "half", "error", "refused"), 0)
    end = time.monotonic() + seconds
    number = 0
    while number < cases if cases else time.monotonic() < end:
        number += 1
        case = draw(rng)
        try:
            counts[check(case)] += 1
        except BaseException as error:
            error.add_note(f"seed {seed}, case {number}: {case}\n{case.data()!r}")
            raise
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--seconds", type=float, default=60.0)
    given = parser.parse_args()
    begun = time.monotonic()
    counts = fuzz(given.seed, seconds=given.seconds)
    took = time.monotonic() - begun
    print(f"seed {given.seed}: {sum(counts.values())} cases in {took:.0f} s: {counts}")


if __name__ == "__main__":
    main()
