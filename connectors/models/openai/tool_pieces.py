"""Which tool call a streamed piece belongs to; pure.

OpenAI numbers the calls of an answer and sends id and name once. Other servers leave out index or
id, give every call index 0, make a new id for each piece, repeat the name, or cut it in two.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from turnstream.connectors.models.openai.surrogates import split_half
from turnstream.schemas.chat import Delta

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

NAME_CHARS_MAX = 256
"""Of a call's id and name; the rest is dropped."""


class Piece(msgspec.Struct, frozen=True, gc=False):
    """A piece of a call, as the server sent it; "" and None where it sent nothing."""

    index: int | None
    id: str
    name: str
    arguments: str


class _Call:
    __slots__ = ("_depth", "_escaped", "_is_object", "_quoted", "_unread", "begun", "half", "held",
                 "id", "index", "name", "ordinal", "said")  # fmt: skip

    def __init__(self, ordinal: int, index: int | None) -> None:
        self.ordinal = ordinal
        self.index = index
        self.id = self.name = self.half = ""
        self.held: list[str] = []  # arguments that came before the name
        self.said = self.begun = False
        self._unread: list[str] = []
        self._depth = 0
        self._quoted = self._escaped = self._is_object = False

    def add(self, arguments: str) -> None:
        if not self.begun and (begin := arguments.lstrip()):
            self.begun, self._is_object = True, begin[0] == "{"
        self._unread.append(arguments)

    def is_whole(self) -> bool:
        """Tell whether the arguments so far are an object that has ended; reads each once."""
        for char in "".join(self._unread):
            if self._escaped:
                self._escaped = False
            elif self._quoted:
                self._quoted, self._escaped = char != '"', char == "\\"
            elif char == '"':
                self._quoted = True
            else:
                self._depth += (char in "{[") - (char in "}]")
        self._unread.clear()
        return self._is_object and self._depth <= 0 and not self._quoted


class ToolPieces:
    """Puts pieces together; its deltas number the calls from 0 on.

    A call's first delta carries its whole name. So it waits until the arguments begin, another call
    begins, or `flush`. `names` are the tools that were offered.
    """

    def __init__(self, names: Collection[str] = ()) -> None:
        self._names = names
        self._calls: list[_Call] = []
        self._by_id: dict[str, _Call] = {}
        self._by_index: dict[int, _Call] = {}
        self._group: list[_Call] = []  # of the last list of several pieces

    def __len__(self) -> int:
        """Return how many calls there are so far."""
        return len(self._calls)

    @property
    def waits(self) -> bool:
        """Whether a call has not been said yet."""
        return bool(self._calls) and not self._calls[-1].said

    def more(self, index: int | None, arguments: str) -> Delta | None:
        """Return a piece of arguments as a delta if it clearly goes on the last call, else None."""
        call = self._calls[-1] if self._calls else None
        if call is None or call.index != index or not call.said or call.half:
            return None
        call.add(arguments)
        return Delta("tool_args", arguments, call.ordinal)

    def take(self, pieces: Sequence[Piece], deltas: list[Delta]) -> None:
        """Take the pieces of one event."""
        touched: list[_Call] = []
        for position, piece in enumerate(pieces):
            if not (piece.id or piece.name or piece.arguments):
                continue
            alone = len(pieces) == 1
            call = self._found(piece, -1 if alone else position)
            if call is None or self._begins(piece, call, named_before=call in touched):
                self.flush(deltas)
                call = self._opened(piece)
            touched.append(call)
            self._join(call, piece, deltas)
        if len(pieces) > 1:
            self._group = touched

    def flush(self, deltas: list[Delta]) -> None:
        """Say the calls that wait for more of their name or their arguments."""
        if self.waits:
            self._say(self._calls[-1], deltas)

    def end(self, deltas: list[Delta]) -> None:
        """Say all that is left: the answer is over."""
        self.flush(deltas)
        for call in self._calls:
            if call.half:
                call.half = ""
                deltas.append(Delta("tool_args", "\ufffd", call.ordinal))

    def _found(self, piece: Piece, position: int) -> _Call | None:
        """Return the call that a piece would go on, None where there is none."""
        last = self._calls[-1] if self._calls else None
        by_id = self._by_id.get(piece.id)
        if piece.index is None:
            if by_id is None and not piece.id and not piece.name and position < len(self._group):
                return self._group[position] if position >= 0 else last
            return by_id or last
        if by_id is not None and by_id.index in (None, piece.index):
            return by_id
        known = self._by_index.get(piece.index)
        if known is None and last is not None and (last.index is None or not piece.id):
            # a piece of arguments under another number: it has no call of its own
            return None if piece.name else last
        return known

    def _begins(self, piece: Piece, call: _Call, *, named_before: bool) -> bool:
        """Tell whether a piece begins another call than the one that it would go on."""
        if not piece.name or not (call.name or call.begun):
            return False
        if named_before:
            return True
        renamed = piece.name != call.name
        if piece.id and call.id and piece.id != call.id:
            return renamed or not call.begun or call.is_whole()
        if call.begun:
            if not call.name:
                return False  # its arguments came first
            return renamed or (bool(piece.arguments.strip()) and call.is_whole())
        anonymous = piece.index is None and not piece.id
        return anonymous and renamed and call.name in self._names and piece.name in self._names

    def _opened(self, piece: Piece) -> _Call:
        call = _Call(len(self._calls), piece.index)
        self._calls.append(call)
        if piece.index is not None:
            self._by_index[piece.index] = call
        return call

    def _join(self, call: _Call, piece: Piece, deltas: list[Delta]) -> None:
        if piece.id and not call.id:
            call.id = piece.id[:NAME_CHARS_MAX]
            self._by_id[piece.id] = call
        arguments, call.half = split_half(call.half + piece.arguments)
        call.add(arguments)
        if call.said:
            if arguments:
                deltas.append(Delta("tool_args", arguments, call.ordinal))
            return
        call.name = _joined(call.name, piece.name)[:NAME_CHARS_MAX]
        call.held.append(arguments)
        if call.name and call.begun:
            self._say(call, deltas)

    def _say(self, call: _Call, deltas: list[Delta]) -> None:
        call.said = True
        name = call.name.strip()
        deltas.append(Delta("tool_args", "".join(call.held), call.ordinal, call.id, name))
        call.held.clear()


def _joined(name: str, piece: str) -> str:
    """Return a name with another piece of it, which may repeat what is known."""
    if piece == name or not piece:
        return name
    return piece if piece.startswith(name) else name + piece
