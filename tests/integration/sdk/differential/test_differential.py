"""People's graphs on turnstream and on LangGraph itself: states, histories, stream items."""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from langgraph_sdk import get_client

sys.path.insert(0, str(Path(__file__).parent / "graphs"))
sys.path.insert(0, str(Path(__file__).parent))
import served
import stock
from cases import CASES, MODES, OTHER_MODES
from differences import DIFFERENCES, left_out, removals, state_left_out
from played import merged, normalised, whole
from recorded import FILE, facts

if TYPE_CHECKING:
    from played import Played


RECORDED = json.loads(FILE.read_text())


def test_every_difference_has_a_row() -> None:
    text = (Path(__file__).parents[4] / "docs" / "graphs.md").read_text()
    rows = re.findall(r"^\| ([a-z ]+) \|", text.partition("## Stream items")[2], re.MULTILINE)
    assert sorted(set(rows) - {"name"}) == sorted(DIFFERENCES)


# what the libraries of agents import is deprecated
@pytest.mark.filterwarnings("ignore::langgraph.warnings.LangGraphDeprecatedSinceV10")
async def test_graphs_do_the_same_as_on_langgraph(comparable: Any) -> None:
    """One worker and one edge run every graph; each mode is compared item by item."""
    compared: Counter[str] = Counter()
    different: list[str] = []
    async with get_client(url=comparable.url) as client:
        for case in CASES:
            for subgraphs in (False, True):
                ours = await served.play(client, case, subgraphs=subgraphs)
                theirs = await stock.play(case, subgraphs=subgraphs)
                where = f"{case.graph}{'+' if subgraphs else ''}"
                for number, (our, their) in enumerate(zip(ours, theirs, strict=True)):
                    _recall(where, number, deepcopy(our), compared, different)
                    _compare(f"{where}[{number}]", our, their, compared, different)
                ours = await served.play(client, case, subgraphs=subgraphs, modes=OTHER_MODES)
                theirs = await stock.play(case, subgraphs=subgraphs, modes=OTHER_MODES)
                for number, (our, their) in enumerate(zip(ours, theirs, strict=True)):
                    _compare_others(f"{where}[{number}]", our, their, compared, different)
    print(f"compared with LangGraph: {sum(compared.values())} items, {dict(compared)}")
    assert not different, "\n".join(different)


def _compare(
    where: str, ours: Played, theirs: Played, compared: Counter[str], different: list[str]
) -> None:
    our_items, their_items = (_comparable(played) for played in (ours, theirs))
    for mode in MODES:
        event = "messages" if mode == "messages-tuple" else mode
        our, their = (
            [item for item in items if item[0].partition("|")[0] == event]
            for items in (our_items, their_items)
        )
        compared[mode] += len(their)
        _differ(f"{where} {mode}", our, their, different)
    rest = {event.partition("|")[0] for event, _ in our_items} - {"messages", *MODES}
    assert not rest, f"{where}: events of no mode: {rest}"
    for name in ("state", "history"):
        our, their = (normalised(state_left_out(getattr(one, name))) for one in (ours, theirs))
        compared[name] += 1
        _differ(f"{where} {name}", our, their, different)


def _compare_others(
    where: str, ours: Played, theirs: Played, compared: Counter[str], different: list[str]
) -> None:
    """Compare the modes that have runs of their own."""
    for mode in OTHER_MODES:
        our, their = (
            [
                (normalised(item.event), normalised(item.data))
                for item in left_out(whole(removals(played.items)))
                if item.event.startswith(mode)
            ]
            for played in (ours, theirs)
        )
        if mode == "tools":  # of one step they run at once
            for items in (our, their):
                items.sort(key=lambda item: item[1]["toolCallId"])
        compared[f"{mode} alone" if mode == "messages" else mode] += len(their)
        _differ(f"{where} {mode}", our, their, different)


def _recall(
    where: str, number: int, ours: Played, compared: Counter[str], different: list[str]
) -> None:
    """Compare with what LangGraph's own server sent."""
    known = RECORDED[where][number]
    compared["recorded"] += sum(map(len, known.values()))
    found = normalised(facts(left_out(merged(ours.items))))
    _differ(f"{where}[{number}] recorded", found, known, different)


def _comparable(played: Played) -> list[tuple[str, Any]]:
    items = left_out(merged(played.items))
    return [(normalised(item.event), normalised(item.data)) for item in items]


def _differ(where: str, ours: Any, theirs: Any, different: list[str]) -> None:
    """Add the first difference, as the place in the value and both sides."""
    if ours == theirs:
        return
    place = ""
    while True:
        if isinstance(ours, dict) and isinstance(theirs, dict):
            missing = ours.keys() ^ theirs.keys()
            if missing:
                different.append(f"{where}{place}: only on one side: {sorted(missing)}")
                return
            at = next(key for key in ours if ours[key] != theirs[key])
        elif isinstance(ours, list | tuple) and isinstance(theirs, list | tuple):
            pairs = enumerate(zip(ours, theirs, strict=False))
            at = next((k for k, (one, other) in pairs if one != other), None)
            if at is None:
                rest = [str(one)[:300] for one in (*ours[len(theirs) :], *theirs[len(ours) :])]
                different.append(f"{where}{place}: {len(ours)} and {len(theirs)}: {rest[:3]}")
                return
        else:
            different.append(
                f"{where}{place}:\n  ours   {str(ours)[:400]}\n  theirs {str(theirs)[:400]}"
            )
            return
        place, ours, theirs = f"{place}[{at!r}]", ours[at], theirs[at]
