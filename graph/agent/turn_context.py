"""What the nodes of a native graph are given."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from turnstream.graph.agent.retries import Retries
from turnstream.graph.ports.lookup import Services

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

    `services` are the process's, by port: `context.services[MODEL]`. The rest belongs to the
    attempt. `configurable` holds the assistant's settings for this turn as they came, unchecked.
    `settled` is `Commits.settled`, `retries` the budget of retries.
    """

    emitter: Emitter
    turn_id: UUID
    thread_key: str
    tool_calls: ToolCalls
    configurable: Mapping[str, object] = field(default_factory=dict)
    services: Services = field(default_factory=Services)
    settled: Callable[[str], Awaitable[Sequence[Keep]]] = field(default=_nothing, compare=False)
    retries: Retries = field(default_factory=Retries, compare=False)
