"""What is run on both: a graph, and the turns that it is given."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

MODES = ("values", "updates", "messages-tuple", "custom", "tasks", "checkpoints", "debug")


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
    config: dict[str, Any] = field(default_factory=dict)


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
)
