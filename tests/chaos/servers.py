"""Servers of a plain kind: one Kafka and one Postgres, which no fault of the campaign harms."""

from __future__ import annotations

from dataclasses import dataclass, field

from turnstream.deploy.local.machine import Ports

KAFKA_OPTIONS = {
    # a killed worker's partitions of the input wait so long for another; 6 s is the default
    "group.min.session.timeout.ms": "1000",
    # the campaign makes and leaves many groups
    "group.initial.rebalance.delay.ms": "0",
}


@dataclass(frozen=True, slots=True)
class PlainServers:
    """Two addresses, the same for every process."""

    kafka: str
    database: str
    session_ms: int = 0
    """The shortest session that the broker allows, 0: its default."""
    supports: frozenset[str] = frozenset()
    ports: Ports = field(default_factory=Ports)

    def kafka_for(self, process: str) -> str:
        """Return the one address."""
        return self.kafka

    def database_for(self, process: str) -> str:
        """Return the one address."""
        return self.database

    def model_for(self, stage: str, url: str) -> str:
        """Return the address itself."""
        return url

    def edge_for(self, stage: str, url: str) -> str:
        """Return the address itself."""
        return url

    def release(self, process: str) -> None:
        """Take nothing back."""
