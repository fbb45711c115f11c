"""Servers of a plain kind: one Kafka and one Postgres, which no fault of the campaign harms."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

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


@contextmanager
def local_servers(folder: Path) -> Iterator[PlainServers]:
    """Start them and stop them again."""
    from turnstream.deploy.local import LocalStack
    from turnstream.deploy.local.plan import Plan

    plan = Plan(
        parts=("kafka", "postgres"),
        kafka_options=KAFKA_OPTIONS,
        postgres_options={"max_connections": "500"},
    )
    with LocalStack(folder / "servers", plan=plan) as local:
        yield PlainServers(local.kafka_bootstrap, local.database_url, session_ms=1500)
