"""What is run on both: a graph, and the turns that it is given."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

MODES = ("values", "updates", "messages-tuple", "custom", "tasks", "checkpoints", "debug")
OTHER_MODES = ("messages", "tools")
"""Compared in runs of their own: `messages-tuple` goes before `messages`."""


@dataclass(frozen=True)
class Resume:
    """A turn that answers all that is asked, each question with this value."""

    value: Any


@dataclass(frozen=True)
class Case:
    """One thread: `turns` are inputs, or answers."""

    graph: str
    turns: tuple[Any, ...]
    module: str = "plain"
    config: dict[str, Any] = field(default_factory=lambda: {"recursion_limit": 50})


def user(text: Any) -> dict[str, Any]:
    """Return a user's message as an input."""
    return {"messages": [{"role": "user", "content": text}]}


PICTURE = [
    {"type": "text", "text": "What is this?"},
    {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}},
]

CASES = (
    Case("tools_graph", (user("How is the weather?"), user("And now?"))),
    Case("map_reduce", ({"subjects": []},)),
    Case("essay", ({"subject": "cats"}, Resume("good"))),
    Case("nested_questions", ({"answers": []}, Resume("one"), Resume("two"))),
    Case("supervised", (user("How many?"),)),
    Case("pydantic_state", ({"name": "ann"}, {"name": "bob"})),
    Case("dataclass_state", ({"owner": "ann"},)),
    Case("multimodal", (user(PICTURE),)),
    Case("approving", (user("Send it."), Resume({"decisions": [{"type": "approve"}]})), "agents"),
    Case("summing_up", (user("One?"), user("Two?"), user("Three?")), "agents"),
    Case("structured", (user("How is the weather?"),), "agents"),
    Case("supervisor", (user("How much is one and two?"),), "agents"),
    Case("swarm", (user("Who is there?"), user("And now?")), "agents"),
    Case("deep", (user("Do it."),), "agents"),
)
