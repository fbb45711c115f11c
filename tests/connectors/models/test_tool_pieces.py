"""Tool calls in the dialects of servers: the same calls, whichever way their pieces are sent."""

from __future__ import annotations

import itertools
import json
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from turnstream.connectors.models.openai.tool_pieces import Piece, ToolPieces

if TYPE_CHECKING:
    from collections.abc import Callable

    from turnstream.schemas.chat import Delta

NAMES = ("add", "calculate", "now", "add_all")
Call = tuple[str, list[str]]
"""A name, and the pieces of its arguments."""

values = st.dictionaries(st.text(max_size=3), st.text(max_size=6) | st.integers(), max_size=3)


@st.composite
def one_call(draw: st.DrawFn) -> Call:
    text = json.dumps(draw(values), ensure_ascii=draw(st.booleans()))
    cuts = sorted(draw(st.lists(st.integers(1, len(text)), max_size=4)))
    parts = [text[a:b] for a, b in itertools.pairwise([0, *cuts, len(text)])]
    return draw(st.sampled_from(NAMES)), [part for part in parts if part]


def openai(calls: list[Call], index: Callable[[int], int | None]) -> list[list[Piece]]:
    """An index and an id for each call, the id and the name in its first piece."""
    lists = []
    for number, (name, parts) in enumerate(calls):
        lists.append([Piece(index(number), f"c{number}", name, "")])
        lists += [[Piece(index(number), "", "", part)] for part in parts]
    return lists


def id_in_every_piece(calls: list[Call], index: Callable[[int], int | None]) -> list[list[Piece]]:
    lists = []
    for number, (name, parts) in enumerate(calls):
        lists.append([Piece(index(number), f"c{number}", name, "")])
        lists += [[Piece(index(number), f"c{number}", "", part)] for part in parts]
    return lists


def new_id_in_every_piece(calls: list[Call], _: object) -> list[list[Piece]]:
    ids = map(str, itertools.count())
    return [
        [Piece(piece.index, next(ids), piece.name, piece.arguments)]
        for (piece,) in openai(calls, lambda number: number)
    ]


def name_in_every_piece(calls: list[Call], index: Callable[[int], int | None]) -> list[list[Piece]]:
    return [
        [Piece(index(number), "", name, part)]
        for number, (name, parts) in enumerate(calls)
        for part in ("", *parts)
    ]


def name_in_pieces(calls: list[Call], index: Callable[[int], int | None]) -> list[list[Piece]]:
    lists = []
    for number, (name, parts) in enumerate(calls):
        lists.append([Piece(index(number), f"c{number}", name[:2], "")])
        lists.append([Piece(index(number), "", name[2:], "")])
        lists += [[Piece(index(number), "", "", part)] for part in parts]
    return lists


def whole(calls: list[Call], index: Callable[[int], int | None]) -> list[list[Piece]]:
    return [[piece] for piece in in_one_list(calls, index)[0]]


def in_one_list(calls: list[Call], index: Callable[[int], int | None]) -> list[list[Piece]]:
    return [
        [
            Piece(index(number), "", name, "".join(parts))
            for number, (name, parts) in enumerate(calls)
        ]
    ]


def without_ids(calls: list[Call], index: Callable[[int], int | None]) -> list[list[Piece]]:
    lists = []
    for number, (name, parts) in enumerate(calls):
        lists.append([Piece(index(number), "", name, parts[0])])
        lists += [[Piece(index(number), "", "", part)] for part in parts[1:]]
    return lists


def side_by_side(calls: list[Call], index: Callable[[int], int | None]) -> list[list[Piece]]:
    """The heads of all calls in one list, then one piece of each in turn."""
    heads = [Piece(index(n), f"c{n}", name, "") for n, (name, _) in enumerate(calls)]
    rows = itertools.zip_longest(*(parts for _, parts in calls), fillvalue="")
    return [heads, *([Piece(index(n), f"c{n}", "", p) for n, p in enumerate(r)] for r in rows)]


def said(lists: list[list[Piece]]) -> list[tuple[str, str]]:
    pieces = ToolPieces(NAMES)
    deltas: list[Delta] = []
    for each in lists:
        pieces.take(each, deltas)
    pieces.end(deltas)
    found: list[tuple[str, str]] = []
    for delta in deltas:
        if delta.index == len(found):
            found.append((delta.tool_name, ""))
        name, arguments = found[delta.index]
        found[delta.index] = name, arguments + delta.text
    return found


NUMBERED, ZERO, MISSING = (lambda number: number), (lambda _: 0), (lambda _: None)


@pytest.mark.parametrize(
    ("dialect", "index"),
    [
        (openai, NUMBERED), (openai, ZERO), (openai, MISSING),
        (id_in_every_piece, NUMBERED), (id_in_every_piece, ZERO), (id_in_every_piece, MISSING),
        (new_id_in_every_piece, NUMBERED),
        (name_in_every_piece, NUMBERED), (name_in_every_piece, ZERO),
        (name_in_every_piece, MISSING),
        (name_in_pieces, NUMBERED), (name_in_pieces, ZERO), (name_in_pieces, MISSING),
        (whole, NUMBERED), (whole, ZERO), (whole, MISSING),
        (in_one_list, NUMBERED), (in_one_list, ZERO), (in_one_list, MISSING),
        (without_ids, NUMBERED), (without_ids, ZERO), (without_ids, MISSING),
        (side_by_side, NUMBERED), (side_by_side, MISSING),
    ],
)  # fmt: skip
@settings(max_examples=25)
@given(calls=st.lists(one_call(), min_size=1, max_size=4))
def test_each_dialect_makes_the_same_calls(dialect, index, calls):
    assert said(dialect(calls, index)) == [(name, "".join(parts)) for name, parts in calls]
