"""Which of a graph's root checkpoints nothing runs after. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from langgraph.checkpoint.base import Checkpoint

    from turnstream.graph.langgraph.factories import AnyPregel


def ends_after(graph: AnyPregel) -> Callable[[Checkpoint], bool]:
    """Return the test whether nothing runs after a root checkpoint of this graph.

    Goes by what the step updated and what that triggers. A wrong yes costs little: the checkpoint
    waits for the next commit instead of being one.
    """
    triggers = frozenset(graph.trigger_to_nodes)

    def is_last(checkpoint: Checkpoint) -> bool:
        updated = checkpoint.get("updated_channels")
        if not updated or checkpoint["channel_values"].get("__pregel_tasks"):
            return False
        return triggers.isdisjoint(updated)

    return is_last
