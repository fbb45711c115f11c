"""What the chunks of one answer add to it: text, reasoning and tool calls as deltas; pure.

Text may hold half a character at its end, or reasoning between tags, and a tool call may wait for
its name. What is held back goes out before what follows it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from turnstream.connectors.models.openai.surrogates import split_half
from turnstream.connectors.models.openai.thinking import Thinking
from turnstream.connectors.models.openai.tool_pieces import Piece, ToolPieces
from turnstream.schemas.chat import Delta

if TYPE_CHECKING:
    from collections.abc import Collection

    from turnstream.connectors.models.openai.chunks import ChunkDelta, Function
    from turnstream.schemas.chat import DeltaKind

REFUSAL_CHARS_MAX = 2000


class Additions:
    """Turns what each chunk adds into deltas, in order; `tool_names` are the tools on offer.

    `quick`: text is a delta as it is. `refusal` is what the model said instead of an answer.
    """

    __slots__ = ("_half", "_half_kind", "_plain", "_thinking", "_tools", "_watched", "quick",
                 "refusal")  # fmt: skip

    def __init__(self, tool_names: Collection[str] = ()) -> None:
        self.refusal = ""
        self._thinking = Thinking()
        self._tools = ToolPieces(tool_names)
        self._half, self._half_kind = "", ""  # half a character, and what it is of
        # what the text of a chunk needs, see `_settle`
        self._plain, self.quick, self._watched = True, False, ""

    @property
    def calls(self) -> int:
        """Return how many tool calls there are so far."""
        return len(self._tools)

    def add(self, delta: ChunkDelta, deltas: list[Delta]) -> None:
        """Append the deltas of one chunk."""
        if text := delta.reasoning_content or delta.reasoning:
            if self._plain:
                deltas.append(Delta("reasoning", text))
            else:
                self._say("reasoning", text, deltas)
        if text := delta.content:
            if self.quick:
                deltas.append(Delta("text", text))
            elif self._watched and self._watched not in text:
                deltas.append(Delta("reasoning", text))
            else:
                self._say("text", text, deltas)
        if delta.refusal and len(self.refusal) < REFUSAL_CHARS_MAX:
            self.refusal += delta.refusal
        if delta.tool_calls or delta.function_call:
            self.add_calls(delta, deltas)

    def _settle(self, *, plain: bool) -> None:
        """Choose what text needs from now on.

        `_plain`: nothing is held back. `quick`: nor is text looked at for reasoning. `_watched`:
        it is reasoning, as long as this character is not in it.
        """
        self._plain = plain
        self.quick = plain and self._thinking.idle
        self._watched = self._thinking.watched if plain else ""

    def _say(self, kind: DeltaKind, text: str, deltas: list[Delta]) -> None:
        """Say text or reasoning, behind what was held back."""
        self._tools.flush(deltas)
        if self._half_kind != kind:
            self._say_half(deltas)
        text, self._half = split_half(self._half + text)
        self._half_kind = kind
        self._split(kind, text, deltas)
        self._settle(plain=not self._half)

    def _split(self, kind: str, text: str, deltas: list[Delta]) -> None:
        if kind == "text" and not self._thinking.idle:
            deltas.extend(Delta(part, piece) for part, piece in self._thinking.feed(text))
        elif text:
            deltas.append(Delta("reasoning" if kind == "reasoning" else "text", text))

    def _say_half(self, deltas: list[Delta]) -> None:
        if self._half:
            self._half = ""
            self._split(self._half_kind, "\ufffd", deltas)

    def add_calls(self, delta: ChunkDelta, deltas: list[Delta]) -> None:
        """Append the deltas of a chunk's tool calls."""
        calls = delta.tool_calls or ()
        if self._plain and len(calls) == 1 and not delta.function_call:
            piece, function = calls[0], calls[0].function
            if function is not None and not (piece.id or function.name):
                arguments = function.arguments
                if isinstance(arguments, str) and arguments:
                    more = self._tools.more(piece.index, arguments)
                    if more is not None:
                        deltas.append(more)
                        return
        self._say_half(deltas)
        deltas.extend(Delta(part, piece) for part, piece in self._thinking.flush())
        pieces = [_piece(call.function or call, call.index, call.id) for call in calls]
        if delta.function_call:
            pieces.append(_piece(delta.function_call))
        self._tools.take(pieces, deltas)
        self._settle(plain=not self._tools.waits)

    def doubt(self) -> None:
        """Look at each character from now on: strings may hold halves of some."""
        self._settle(plain=False)

    def flush(self, deltas: list[Delta]) -> None:
        """Append what is held back: the answer is over."""
        self._say_half(deltas)
        deltas.extend(Delta(part, piece) for part, piece in self._thinking.flush())
        self._tools.end(deltas)


def _piece(function: Function, index: int | None = None, call_id: str | None = None) -> Piece:
    arguments = function.arguments
    if isinstance(arguments, dict):  # Ollama and old TGI send the object itself
        arguments = msgspec.json.encode(arguments).decode()
    return Piece(index, call_id or function.id or "", function.name or "", arguments or "")
