"""How each part of a plan is made: its port, its environment, its options.

Making a part starts nothing, but it may take long: it fetches Kafka's jars the first time and
creates Postgres' cluster.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from turnstream.deploy.local import machine
from turnstream.deploy.local.jars import fetch_jars, read_lock
from turnstream.deploy.local.kafka import Node, kafka_part
from turnstream.deploy.local.model import model_part
from turnstream.deploy.local.postgres import postgres_part
from turnstream.deploy.local.services import (
    JWT_SECRET,
    MODEL_API_KEY,
    edge_part,
    processor_part,
    worker_part,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from turnstream.deploy.local.folder import Folder
    from turnstream.deploy.local.part import Part
    from turnstream.deploy.local.plan import Plan
    from turnstream.deploy.local.state import StackState


class Recipes:
    """Makes the parts of one plan in one folder.

    `before` is the state that the folder's last stack left: a part gets its port of then if it is
    free. `fetched` is called with the numbers of jars that are there and that are needed.
    """

    def __init__(
        self, plan: Plan, folder: Folder, before: StackState, fetched: Callable[[int, int], None]
    ) -> None:
        self._plan, self._folder, self._before, self._fetched = plan, folder, before, fetched
        self._ports = machine.Ports()

    def kafka(self) -> Part:
        """Make the broker."""
        java = self._plan.java
        found = (java, machine.java_version(java)) if java else machine.find_java()
        jars = fetch_jars(read_lock(), self._cache(), progress=self._fetched)
        return kafka_part(
            folder=self._folder.path / "kafka",
            log=self._folder.logs / "kafka.log",
            jars=jars,
            java=found,
            env=machine.environment(),
            port=self._port("kafka", "broker", self._plan.kafka_port),
            node=Node(controller_ports=(self._port("kafka", "controller"),)),
            options=self._plan.kafka_options,
        )

    def postgres(self) -> Part:
        """Make the database server."""
        return postgres_part(
            folder=self._folder.path,
            log=self._folder.logs / "postgres.log",
            cache=self._cache(),
            env=machine.environment(),
            port=self._port("postgres", "server", self._plan.postgres_port),
            options=self._plan.postgres_options,
        )

    def model(self) -> Part:
        """Make the model server."""
        return model_part(
            log=self._folder.logs / "model.log",
            env=machine.environment(),
            port=self._port("model", "http", self._plan.model_port),
        )

    def worker(self, number: int, told: Mapping[str, str]) -> Part:
        """Make worker `number` (from 1); `told` are settings that say where the servers are."""
        return worker_part(
            number,
            logs=self._folder.logs,
            env=machine.own_environment(without={JWT_SECRET}, graphs=True) | dict(told),
            port=self._port(f"worker-{number}", "health"),
            drain_s=self._plan.worker_drain_s,
        )

    def edge(self, told: Mapping[str, str]) -> Part:
        """Make the edge; `told` as for `worker`."""
        plan = self._plan
        return edge_part(
            logs=self._folder.logs,
            env=machine.own_environment(without={MODEL_API_KEY}, graphs=True) | dict(told),
            port=self._port("edge", "http", plan.edge_port, plan.edge_port_preferred),
        )

    def processor(self, told: Mapping[str, str]) -> Part:
        """Make the usage processor; `told` as for `worker`."""
        secrets = {JWT_SECRET, MODEL_API_KEY}
        return processor_part(
            folder=self._folder.path / "processor",
            logs=self._folder.logs,
            env=machine.own_environment(without=secrets, graphs=False) | dict(told),
        )

    def _cache(self) -> Path:
        cache = self._plan.cache or machine.cache_folder()
        cache.mkdir(parents=True, exist_ok=True)
        return cache

    def _port(self, name: str, use: str, asked: int = 0, preferred: int = 0) -> int:
        before = self._before.part(name)
        remembered = before.ports.get(use, 0) if before else 0
        return self._ports.take(asked=asked, remembered=remembered or preferred)
