"""From the bytes of an answer to deltas; pure.

Reads what vLLM, llama.cpp, Ollama, TGI, SGLang, LM Studio, Mistral, LiteLLM and proxies send;
docs/models.md has the table. A chunk that only adds to the answer, in the usual form, takes a short
way; all others are read by `_event`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from turnstream.connectors.models.http.server_sent_events import (
    EVENT_BYTES_MAX,
    EventLines,
    is_whole,
)
from turnstream.connectors.models.openai.additions import Additions
from turnstream.connectors.models.openai.chunks import MODEL_CHARS_MAX, decode_chunk, read_usage
from turnstream.connectors.models.openai.endings import REASON_CHARS_MAX, Ending, ending_of
from turnstream.connectors.models.openai.patient import read_patiently
from turnstream.schemas.chat import Delta
from turnstream.schemas.text import storable_text

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from turnstream.connectors.models.openai.chunks import Choice, Chunk
    from turnstream.schemas.records.events import Usage

__all__ = ["EVENT_BYTES_MAX", "DeltaParser"]

_NONE = object()


class DeltaParser:
    """Collects one answer: `feed` and `end` give its deltas, the rest is read after `end`.

    They raise `ModelBadResponseError` for what cannot be read. An error object of the server ends
    the reading and stands in `error`. `tool_names` are the tools that were offered.
    """

    __slots__ = ("_added", "_choice", "_counted", "_late", "_lines", "_model", "_said", "_usual",
                 "began", "cut", "done", "error", "finish_reason", "over", "seen")  # fmt: skip

    def __init__(self, tool_names: Collection[str] = ()) -> None:
        self.finish_reason = ""
        self.error: Any = None
        self.done = False  # [DONE] was read
        self.over = False  # done, or an error: what follows is not read
        self.seen = 0  # events read; comments and empty ones do not count
        self.began = False  # there was a chunk of an answer
        self.cut = False  # the last event was not whole
        self._lines = EventLines()
        self._added = Additions(tool_names)
        self._model = ""
        self._counted: Any = None  # the last usage
        self._choice: int | None = None  # the index of the answer that is read
        self._usual: object = _NONE  # the index of chunks that take the short way
        self._said = False
        self._late = False  # something was said after a finish_reason

    @property
    def model(self) -> str:
        """Return the model's name as the server gives it."""
        return storable_text(self._model[:MODEL_CHARS_MAX])

    @property
    def refusal(self) -> str:
        """Return the model's words where it sends them as a refusal."""
        return self._added.refusal

    @property
    def usage(self) -> Usage | None:
        """Return what the server counted last."""
        return read_usage(self._counted, self.model)

    @property
    def ending(self) -> Ending:
        """Return what the `finish_reason` means."""
        return ending_of(self.finish_reason)

    @property
    def whole(self) -> bool:
        """Whether the answer is whole: what may follow is a usage, or nothing."""
        if self.error is not None or self.refusal or self.ending is not Ending.WHOLE:
            return False
        if self.finish_reason in ("tool_calls", "function_call") and not self._added.calls:
            return False
        return self.done or not self._late

    def feed(self, data: bytes) -> list[Delta]:
        """Return the deltas of the events that these bytes complete, in order."""
        deltas: list[Delta] = []
        added = self._added
        usual = 0
        for event in self._lines.feed(data):
            chunk = None
            try:
                chunk = decode_chunk(event)
                (choice,) = chunk.choices  # type: ignore[misc]
            except (ValueError, TypeError, RecursionError):  # msgspec's errors are ValueErrors
                self._event(chunk, event, deltas)
                continue
            delta = choice.delta
            if delta is None or choice.index != self._usual or choice.finish_reason:
                self._event(chunk, event, deltas)
                continue
            usual += 1
            text = delta.content
            if not text or not added.quick or delta.reasoning_content or delta.reasoning:
                added.add(delta, deltas)
            else:
                deltas.append(Delta("text", text))
                if delta.tool_calls:
                    added.add_calls(delta, deltas)
            if chunk.usage:
                self._counted = chunk.usage
        self.seen += usual
        if deltas:
            self._said = True
        return deltas

    def end(self) -> list[Delta]:
        """Return the last deltas: the server sends nothing more.

        An event that was cut by the end is left out; without a `finish_reason` before it the
        answer is not whole.
        """
        deltas: list[Delta] = []
        for event in self._lines.end():
            if is_whole(event):
                self._event(None, event, deltas)
            elif event.strip():
                self.cut = True
        self._added.flush(deltas)
        return deltas

    # -- events that do more than add to the answer, or are of another form ---------------------

    def _event(self, chunk: Chunk | None, data: bytes, deltas: list[Delta]) -> None:
        """Read an event; `chunk` is None if the fast reader cannot read it."""
        if self.over:
            return
        if chunk is not None and (chunk.choices or (chunk.choices is not None and chunk.usage)):
            picked = self._picked(chunk.choices)
            if all(choice.delta is not None for choice in picked):
                self._take(chunk, picked, deltas)
                return
        if data.strip().strip(b'"').upper() == b"[DONE]":
            self.done = True
            self._stop(deltas)
            return
        self._added.doubt()
        for odd in read_patiently(data):
            if odd.error is not None:
                self.seen += 1
                self.error = odd.error
                self._stop(deltas)
                return
            self._take(odd, self._picked(odd.choices or ()), deltas)

    def _picked(self, choices: Sequence[Choice]) -> list[Choice]:
        """Return the parts of the one answer that is read: of the first index that came.

        A choice without an index has that of its place, where there are several.
        """
        picked = []
        for place, choice in enumerate(choices):
            index = place if choice.index is None and len(choices) > 1 else choice.index
            if self._choice is None:
                self._choice = index
            if index is None or index == self._choice:
                picked.append(choice)
        return picked

    def _take(self, chunk: Chunk, picked: list[Choice], deltas: list[Delta]) -> None:
        self.seen += 1
        self.began = self.began or bool(chunk.choices)
        before = len(deltas)
        for choice in picked:
            repeats = choice.completes and (self._said or deltas)
            if choice.delta is not None and not repeats:
                self._added.add(choice.delta, deltas)
        if self.finish_reason and len(deltas) > before:
            self._late = True
        for choice in picked:
            if choice.finish_reason:
                self._finish(choice, choice.finish_reason)
        if chunk.usage:
            self._counted = chunk.usage
        if chunk.model and not self._model:
            self._model = chunk.model
        self._usual = _NONE if self.finish_reason else self._choice

    def _finish(self, choice: Choice, reason: str) -> None:
        if ending_of(reason) is Ending.NONE or self.ending not in (Ending.NONE, Ending.WHOLE):
            return
        self.finish_reason = storable_text(reason[:REASON_CHARS_MAX])
        self._late = False
        if choice.usage:
            self._counted = choice.usage

    def _stop(self, deltas: list[Delta]) -> None:
        self._added.flush(deltas)
        self.over, self._usual = True, _NONE
