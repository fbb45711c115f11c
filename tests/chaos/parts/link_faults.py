"""Faults of the network: a link between two parts is cut, stalled, delayed or half open.

Named `<how>-<who>-<to>`, such as `cut-worker-kafka`. `end` ends the connections once, `cut` also
refuses new ones for a while, `stall` holds data back for longer than a lease, as a pulled cable
does, `delay` lets it come late, `deaf` swallows what comes back, so that a worker's records and
statements arrive and it never learns of it.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from tests.chaos.faults import FAULTS, NothingToStrikeError

if TYPE_CHECKING:
    from tests.chaos.faults import Scope, Stage
    from tests.chaos.parts.links import Link

LASTS_S = {"end": 0.0, "cut": 1.5, "stall": 4.5, "delay": 5.0, "deaf": 2.0}
"""Stalls are longer than a lease, 3 s, and its renewal."""
DELAY_S, JITTER_S = 0.08, 0.06
BETWEEN = {
    "worker-kafka": ("cut", "stall", "delay", "deaf"),
    "worker-broker": ("cut", "stall"),
    "worker-postgres": ("cut", "stall", "delay", "deaf"),
    "worker-model": ("end", "cut", "stall", "delay"),
    "edge-kafka": ("cut", "stall", "delay"),
    "edge-postgres": ("cut", "stall", "delay"),
    "client-edge": ("end", "cut", "stall", "delay"),
}


@dataclass(slots=True)
class LinkFault:
    """One way to harm one kind of link."""

    how: str
    between: str
    scope: ClassVar[Scope] = "stage"
    struck: str = ""
    _links: list[Link] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Return its name in `FAULTS`."""
        return f"{self.how}-{self.between}"

    @property
    def lasts_s(self) -> float:
        """Return how long it lasts."""
        return LASTS_S[self.how]

    async def strike(self, stage: Stage) -> None:
        """Harm the links of a worker that runs a turn of this story, or of an edge."""
        self._links = await self._find(stage)
        for link in self._links:
            await asyncio.to_thread(self._harm, link)

    async def heal(self, stage: Stage) -> None:
        """Undo it."""
        for link in self._links:
            await asyncio.to_thread(link.heal)

    def _harm(self, link: Link) -> None:
        if self.how == "delay":
            link.delay(DELAY_S, JITTER_S)
        elif self.how == "deaf":
            link.swallow("down")
        else:
            {"end": link.end, "cut": link.cut, "stall": link.stall}[self.how]()

    async def _find(self, stage: Stage) -> list[Link]:
        who, _, to = self.between.partition("-")
        servers = stage.servers
        if to in ("model", "edge"):
            links = servers.models if to == "model" else servers.edges
            return [links[stage.name]]
        process = await stage.busy_worker() if who == "worker" else None
        if process is None:
            choice = list(stage.workers if who == "worker" else stage.edges)
            if not choice:
                raise NothingToStrikeError
            process = stage.random.choice(choice)
        self.struck = process.name
        lane = servers.lane(f"{stage.name}/{process.name}")
        if to == "postgres":
            return [lane.postgres]
        return [stage.random.choice(lane.kafka)] if to == "broker" else lane.kafka


def _register() -> None:
    for between, hows in BETWEEN.items():
        for how in hows:
            make = partial(LinkFault, how, between)
            make.scope = "stage"  # type: ignore[attr-defined]
            make.needs_brokers = between == "worker-broker"  # type: ignore[attr-defined]
            make.may_fail = between == "worker-model"  # type: ignore[attr-defined]
            FAULTS[make().name] = make


_register()
