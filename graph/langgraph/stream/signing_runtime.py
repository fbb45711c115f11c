"""Which task a stream writer belongs to: LangGraph's `custom` stream leaves it out."""

from __future__ import annotations

from typing import Any

from langgraph.config import get_config
from langgraph.runtime import Runtime

from turnstream.graph.langgraph.stream.translate import Written

RUNTIME = "__pregel_runtime"
"""Where a config carries the runtime that a run builds its own upon. It has no public name; a test
holds that it still works."""


class SigningRuntime(Runtime[Any]):
    """Makes stream writers say which task writes: the `custom` stream names only the graph.

    With several tasks running, a reader could not tell whose item it is, and a crash would take
    back what a finished task had written.
    """

    def merge(self, other: Runtime[Any]) -> Runtime[Any]:
        """Return the run's own runtime, its writer signing what it is given."""
        merged = super().merge(other)
        write = merged.stream_writer

        def sign(data: object) -> None:
            write(Written(get_config()["configurable"].get("checkpoint_ns", ""), data))

        return merged.override(stream_writer=sign)
