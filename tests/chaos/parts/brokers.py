"""Kafka of one or more nodes, each of which can be killed and started again, behind lanes.

A *lane* is a way in of its own: every node advertises itself there at another port, which is a
link's. Clients that got a lane's bootstrap address never leave it, so that one process can be cut
off from Kafka, or from one broker, and no other notices.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING

from tests.chaos.parts.server import Launcher, Server
from turnstream.connectors.kafka.admin import TopicAdmin
from turnstream.deploy.local import machine
from turnstream.deploy.local.jars import fetch_jars, read_lock
from turnstream.deploy.local.kafka import Node, kafka_part
from turnstream.schemas.errors import KafkaUnavailableError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from tests.chaos.parts.links import Link, RelayProcess
    from turnstream.deploy.local.part import Part

_HEAP_MIB = 256
_LOOK_EVERY_S = 0.1
_OPTIONS = {
    # of each listener, of which there are many
    "num.network.threads": "1",
    "num.io.threads": "4",
    # a node that was killed is noticed in 3 s and not in 9
    "broker.session.timeout.ms": "3000",
    "broker.heartbeat.interval.ms": "500",
    # and leaves the in-sync replicas as soon; the default, 30 s, would be 30 s of waiting acks
    "replica.lag.time.max.ms": "3000",
    "controller.quorum.fetch.timeout.ms": "1000",
    "controller.quorum.election.timeout.ms": "500",
    "log.initial.task.delay.ms": "1000",
}


class Brokers:
    """The nodes; `start` them."""

    def __init__(
        self,
        folder: Path,
        launcher: Launcher,
        ports: machine.Ports,
        *,
        nodes: int = 1,
        lanes: int = 0,
        options: Mapping[str, str] | None = None,
    ) -> None:
        self.folder, self._launcher = folder, launcher
        self._options = {**_OPTIONS, **(options or {})}
        numbers = range(1, nodes + 1)
        self._ports = {number: ports.take() for number in numbers}
        listeners = {
            number: {f"LANE{lane}": (ports.take(), ports.take()) for lane in range(lanes)}
            for number in numbers
        }
        first = Node(controller_ports=tuple(ports.take() for _ in numbers))
        self._nodes = [
            replace(first, number=number, listeners=listeners[number]) for number in numbers
        ]
        self.nodes: list[Server] = []

    @property
    def bootstrap(self) -> str:
        """Return the address of all nodes, past the lanes."""
        return ",".join(f"127.0.0.1:{port}" for port in self._ports.values())

    async def start(self) -> None:
        """Start all nodes at once and wait until each serves."""
        parts = await asyncio.gather(*(asyncio.to_thread(self._part, node) for node in self._nodes))
        self.nodes = [Server(part, self._launcher) for part in parts]
        await asyncio.gather(*(node.begin() for node in self.nodes))
        await asyncio.gather(*(node.serves() for node in self.nodes))

    async def stop(self) -> None:
        """End all nodes."""
        await asyncio.gather(*(node.kill() for node in self.nodes))

    async def whole(self, timeout_s: float = 60.0) -> None:
        """Wait until every partition has a leader and all its replicas are in sync."""
        async with asyncio.timeout(timeout_s):
            while not await self._in_sync():
                await asyncio.sleep(_LOOK_EVERY_S)

    async def _in_sync(self) -> bool:
        with contextlib.suppress(KafkaUnavailableError):
            async with TopicAdmin(self.bootstrap) as admin:
                seen = await admin._metadata(None)
                partitions = [p for topic in seen["topics"] for p in topic["partitions"]]
                return len(seen["brokers"]) == len(self.nodes) and all(
                    p["leader"] >= 0 and len(p["isr"]) == len(p["replicas"]) for p in partitions
                )
        return False

    def lanes(self, relay: RelayProcess) -> list[list[Link]]:
        """Make the links of all lanes: for each lane one to each node."""
        names = self._nodes[0].listeners
        return [
            [
                relay.link(f"{name}-{node.number}", f"127.0.0.1:{bound}", told)
                for node in self._nodes
                for bound, told in [node.listeners[name]]
            ]
            for name in names
        ]

    def _part(self, node: Node) -> Part:
        log = self.folder / f"{node.name}.log"
        return kafka_part(
            folder=self.folder / node.name,
            log=log,
            jars=fetch_jars(read_lock(), machine.cache_folder()),
            java=machine.find_java(),
            env=machine.environment(),
            port=self._ports[node.number],
            node=node,
            options=self._options,
            heap_mib=_HEAP_MIB,
        )
