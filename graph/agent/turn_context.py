"""What the nodes of a native graph are given."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from turnstream.graph.agent.retries import Retries

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence
    from uuid import UUID

    from turnstream.graph.ports.emitter import Emitter
    from turnstream.graph.ports.tools import ToolCalls
    from turnstream.schemas.records.events import Keep


async def _nothing(path: str) -> Sequence[Keep]:  # noqa: ARG001  where nothing is committed
    return ()


@dataclass(frozen=True, slots=True)
class TurnContext:
    """What the nodes of a native graph find in `Runtime.context`.

    `configurable` holds the assistant's settings for this turn as they came: nobody checked them.
    `settled` is `Commits.settled`, `retries` the budget of retries.
    """

    emitter: Emitter
    turn_id: UUID
    thread_key: str
    tool_calls: ToolCalls
    configurable: Mapping[str, Any] = field(default_factory=dict)
    settled: Callable[[str], Awaitable[Sequence[Keep]]] = field(default=_nothing, compare=False)
    retries: Retries = field(default_factory=Retries, compare=False)
