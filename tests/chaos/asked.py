"""What the turns of a story ask for, and what may come of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.chaos.story import Turn

GRAPHS = dict.fromkeys(("say", "tool", "charge", "tools"), "agent")
CALLS = {
    "tool": ("mark",),
    "charge": ("charge",),
    "tools": ("charge", "mark", "post"),
    "effects": ("charge", "mark"),
    "effects_nested": ("charge", "post"),
    "talker": ("look_up",),
}
"""The tools that each kind of turn calls, all at once."""


def graph_of(turn: Turn) -> str:
    return GRAPHS.get(turn.kind, turn.kind)


def asked_of(turn: Turn) -> str:
    """Return the user's message, which tells the scripted model what to do."""
    calls = [f'tool={name}({{"what":"{name}"}})' for name in CALLS.get(turn.kind, ())]
    return " ".join([*calls, "rate=200", f'text="{expected_of(turn)}"'])


def expected_of(turn: Turn) -> str:
    """Return what a completed turn's last message has to be, "" where a graph speaks for itself."""
    if turn.kind != "say" and turn.kind not in CALLS:
        return ""
    return " ".join(f"{turn.kind}{i}" for i in range(turn.words))


THEIR_CLIENTS = frozenset({"talker", "effects", "effects_nested"})
"""Kinds whose graphs ask the model by LangChain's client: it takes half an answer for one."""


def ends_of(turn: Turn) -> set[str]:
    """How a turn may end besides the way in which its graph does."""
    ends = set()
    if turn.cancel_s is not None:
        ends.add("cancelled")
    if turn.expires_s is not None:
        ends |= {"failed", "cancelled"}
    if turn.kind == "stalls":  # a slow machine may take all its tries
        ends.add("failed")
    if turn.on_busy == "reject":
        ends.add("rejected")
    return ends
