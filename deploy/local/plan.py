"""The plan of a local stack: its parts, and their settings."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from turnstream.schemas.errors import StackError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

SERVERS = ("kafka", "postgres", "model")
SERVICES = ("worker", "edge", "processor")
PARTS = SERVERS + SERVICES


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to start, and with what.

    A server whose URL is given is used and not started. A port of 0 is chosen. `kafka_options` and
    `postgres_options` are settings of the servers, `env` of our processes.
    """

    parts: tuple[str, ...] = PARTS
    workers: int = 1
    worker_drain_s: float = 20.0
    kafka_bootstrap: str = ""
    database_url: str = ""
    model_url: str = ""
    model_name: str = ""
    kafka_port: int = 0
    postgres_port: int = 0
    model_port: int = 0
    edge_port: int = 0
    edge_port_preferred: int = 0
    kafka_options: Mapping[str, str] = field(default_factory=dict)
    postgres_options: Mapping[str, str] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    cache: Path | None = None
    java: Path | None = None
    fresh: bool = False

    def __post_init__(self) -> None:
        unknown = sorted(set(self.parts) - set(PARTS))
        if unknown:
            raise StackError(f"no such part: {', '.join(unknown)} (there are: {', '.join(PARTS)})")
