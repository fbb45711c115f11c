"""Servers with more to harm: one or three brokers, a Postgres, and a link for every connection.

`open_servers` starts Kafka, Postgres and a relay. Each process of a stage gets addresses of its
own, so that any of its links can be cut alone:

    worker or edge ── lane ──▶ each broker          `kafka_for`
    worker or edge ── link ──▶ Postgres             `database_for`
    worker ────────── link ──▶ the stage's model    `model_for`
    client ────────── link ──▶ the stage's edge     `edge_for`
"""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

from tests.chaos.faults import FAULTS
from tests.chaos.parts.brokers import Brokers
from tests.chaos.parts.database import Database
from tests.chaos.parts.links import Link, RelayProcess
from tests.chaos.parts.server import Launcher
from tests.chaos.servers import KAFKA_OPTIONS
from turnstream.deploy.local import machine

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

SESSION_MS = 1500
_ONE_BROKER_LANES, _SEVERAL_BROKERS_LANES = 32, 20
"""Ways into Kafka, which have to be there when it starts; more than processes run at once."""
_SEVERAL = 3


@dataclass(slots=True)
class Lane:
    """What one process goes through."""

    kafka: list[Link]
    postgres: Link
    process: str = ""


@dataclass(slots=True)
class LinkedServers:
    """Implements `faults.Servers`."""

    brokers: Brokers
    postgres: Database
    relay: RelayProcess
    ports: machine.Ports
    lanes: list[Lane]
    """The longest unused first."""
    session_ms: int = SESSION_MS
    models: dict[str, Link] = field(default_factory=dict)
    edges: dict[str, Link] = field(default_factory=dict)
    harmed: bool = False
    """Whether a fault of the servers has struck and is not healed."""

    @property
    def kafka(self) -> str:
        """Return an address past all links."""
        return self.brokers.bootstrap

    @property
    def database(self) -> str:
        """Return a URL past all links."""
        return self.postgres.url

    @property
    def supports(self) -> frozenset[str]:
        """Return the names of all faults but, with one broker, of those that need several."""
        several = len(self.brokers.nodes) >= _SEVERAL
        return frozenset(
            name
            for name, kind in FAULTS.items()
            if several or not getattr(kind, "needs_brokers", False)
        )

    def kafka_for(self, process: str) -> str:
        """Return the bootstrap address of the process's own lane."""
        return ",".join(link.address for link in self.lane(process).kafka)

    def database_for(self, process: str) -> str:
        """Return the database's URL through the process's own link."""
        parts = urlsplit(self.postgres.url)
        user = parts.netloc.rpartition("@")[0]
        link = self.lane(process).postgres
        return urlunsplit(parts._replace(netloc=f"{user}@{link.address}"))

    def model_for(self, stage: str, url: str) -> str:
        """Return the stage's model server's URL through a link of the stage."""
        parts = urlsplit(url)
        if stage not in self.models:
            self.models[stage] = self.relay.link(f"model-{stage}", parts.netloc)
        return urlunsplit(parts._replace(netloc=self.models[stage].address))

    def edge_for(self, stage: str, url: str) -> str:
        """Return the edge's URL through a link of the stage, for its clients."""
        parts = urlsplit(url)
        if stage not in self.edges:
            self.edges[stage] = self.relay.link(f"edge-{stage}", parts.netloc)
        return urlunsplit(parts._replace(netloc=self.edges[stage].address))

    def lane(self, process: str) -> Lane:
        """Return the lane of a process: the one it has, or the longest unused, healed."""
        found = next((lane for lane in self.lanes if lane.process == process), None)
        if found is None:
            found = next((lane for lane in self.lanes if not lane.process), self.lanes[0])
            found.process = process
            for link in (*found.kafka, found.postgres):
                link.heal()
        self.lanes.remove(found)
        self.lanes.append(found)
        return found

    def release(self, process: str) -> None:
        """Take back the lane of a process that is dead."""
        for lane in self.lanes:
            if lane.process == process:
                lane.process = ""


@asynccontextmanager
async def open_servers(folder: Path, *, brokers: int = 1) -> AsyncIterator[LinkedServers]:
    """Start them all and stop them again."""
    folder.mkdir(parents=True, exist_ok=True)
    if machine.unprivileged_account():
        folder.chmod(0o711)
    launcher, ports = Launcher(), machine.Ports()
    lanes = _ONE_BROKER_LANES if brokers < _SEVERAL else _SEVERAL_BROKERS_LANES
    async with AsyncExitStack() as stack:
        stack.callback(launcher.close)
        relay = await stack.enter_async_context(RelayProcess(folder, launcher, ports))
        kafka = Brokers(folder, launcher, ports, nodes=brokers, lanes=lanes, options=KAFKA_OPTIONS)
        stack.push_async_callback(kafka.stop)
        postgres = Database(folder, launcher, ports)
        stack.push_async_callback(postgres.close)
        await postgres.start()
        await kafka.start()
        yield LinkedServers(
            kafka,
            postgres,
            relay,
            ports,
            [
                Lane(links, relay.link(f"postgres-{number}", postgres.address))
                for number, links in enumerate(kafka.lanes(relay))
            ],
        )
