"""Create the topics that are missing, and report where one differs from what it has to be.

Writes topics that do not exist. Never changes an existing topic: an operator may have chosen its
settings, so a difference is reported as a `TopicDrift`, and the caller decides what to do.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import (
    InvalidTopicError,
    KafkaError,
    TopicAlreadyExistsError,
    UnknownTopicOrPartitionError,
    for_code,
)

from turnstream.connectors.kafka.wire.clients import client_options, open_client
from turnstream.connectors.kafka.wire.consumers import ask_any
from turnstream.connectors.kafka.wire.metadata_request import DescribeTopics
from turnstream.schemas.errors import ConfigurationError, KafkaUnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from types import TracebackType
    from uuid import UUID

    from turnstream.schemas.topics import Topic

REPLICATION_MAX = 3
RETENTION_MS_MIN = 3_600_000
"""Shortest retention of a topic. Commands that retention deletes before a worker reads them are
lost."""

_RETRY_S = 0.1
_NO_ERROR = 0


@dataclass(frozen=True, slots=True)
class TopicState:
    """A topic as the brokers describe it.

    `replication` is the smallest of its partitions'; `led`: every partition has a leader.
    """

    name: str
    topic_id: UUID
    partitions: int
    replication: int
    led: bool
    config: dict[str, str]


@dataclass(frozen=True, slots=True)
class TopicDrift:
    """One setting of one topic that is not as wanted.

    `key` is Kafka's name of the setting, or `exists`, `partitions`, `replication.factor`.
    `breaks`: turns would be lost, refused or mixed up, so no process should start.
    """

    name: str
    key: str
    wanted: str
    found: str
    breaks: bool

    def __str__(self) -> str:
        return f"topic {self.name}: {self.key} is {self.found}, wanted {self.wanted}"


class TopicAdmin:
    """Describe, create and check topics over one connection; use it as an async context manager.

    `client` are aiokafka's connection options (security, time-outs). `replication` of 0 takes
    min(3, brokers). Every call raises `KafkaUnavailableError` where Kafka does not answer.
    """

    def __init__(self, bootstrap: str, *, replication: int = 0, **client: object) -> None:
        self._admin = AIOKafkaAdminClient(**client_options(bootstrap, client))
        self._bootstrap = bootstrap
        self._replication = replication

    async def __aenter__(self) -> Self:
        await open_client(self._admin.start, self._admin.close, self._bootstrap)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        await self._admin.close()

    async def describe(self, names: Iterable[str] | None = None) -> dict[str, TopicState]:
        """Return the topics that exist, of those named or of all, with every setting of each."""
        wanted = None if names is None else list(names)
        if wanted == []:
            return {}
        found = [row for row in (await self._metadata(wanted))["topics"] if row["error_code"] == 0]
        configs = await self._configs([row["name"] for row in found])
        return {
            row["name"]: TopicState(
                name=row["name"],
                topic_id=row["topic_id"],
                partitions=len(row["partitions"]),
                replication=min((len(p["replicas"]) for p in row["partitions"]), default=0),
                led=all(p["error_code"] == 0 and p["leader"] >= 0 for p in row["partitions"]),
                config=configs.get(row["name"], {}),
            )
            for row in found
        }

    async def ids(self, names: Iterable[str]) -> dict[str, UUID]:
        """Return the id of each named topic that exists."""
        rows = (await self._metadata(list(names)))["topics"]
        return {row["name"]: row["topic_id"] for row in rows if row["error_code"] == 0}

    async def brokers(self) -> int:
        """Return how many brokers the cluster has now."""
        return len((await self._metadata([]))["brokers"])

    async def create(self, topics: Sequence[Topic], *, timeout_s: float = 30.0) -> list[str]:
        """Create the topics that are missing and wait until each has leaders; return the new names.

        Several processes may call it at once: the later ones find the topics there.
        """
        existing = await self.ids(topic.name for topic in topics)
        missing = [topic for topic in topics if topic.name not in existing]
        created = await self._create(missing) if missing else []
        await self._wait_for_leaders([topic.name for topic in missing], timeout_s)
        return created

    async def check(self, topics: Sequence[Topic]) -> list[TopicDrift]:
        """Return every difference between the topics wanted and those found, in the order given."""
        found = await self.describe(topic.name for topic in topics)
        durability = await self._durability()
        drifts: list[TopicDrift] = []
        for topic in topics:
            state = found.get(topic.name)
            if state is None:
                drifts.append(TopicDrift(topic.name, "exists", "yes", "no", breaks=True))
            else:
                drifts += drifts_of(topic, state, *durability)
        return drifts

    async def _durability(self) -> tuple[int, dict[str, str]]:
        replication = self._replication or min(REPLICATION_MAX, await self.brokers())
        return replication, {
            "min.insync.replicas": str(max(1, replication - 1)),
            "unclean.leader.election.enable": "false",
        }

    async def _create(self, missing: Sequence[Topic]) -> list[str]:
        replication, config = await self._durability()
        rows = [
            NewTopic(t.name, t.partitions, replication, topic_configs={**config, **t.config})
            for t in missing
        ]
        try:
            response = await self._admin.create_topics(rows)
        except (KafkaError, TimeoutError) as error:
            raise KafkaUnavailableError(f"create topics: {error!r}") from error
        created: list[str] = []
        for name, code, message in response.topic_errors:
            if code == _NO_ERROR:
                created.append(name)
            elif code != TopicAlreadyExistsError.errno:
                kind = for_code(code)
                text = f"topic {name} cannot be created: {kind.__name__} {message or ''}"
                raise KafkaUnavailableError(text) if kind.retriable else ConfigurationError(text)
        return created

    async def _wait_for_leaders(self, names: list[str], timeout_s: float) -> None:
        if not names:
            return
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    rows = (await self._metadata(names))["topics"]
                    if all(
                        row["error_code"] == 0
                        and row["partitions"]
                        and all(p["leader"] >= 0 for p in row["partitions"])
                        for row in rows
                    ):
                        return
                    await asyncio.sleep(_RETRY_S)
        except TimeoutError as error:
            raise KafkaUnavailableError(f"topics without a leader after {timeout_s} s") from error

    async def _metadata(self, names: list[str] | None) -> dict[str, Any]:
        try:
            response = await ask_any(self._admin, DescribeTopics(names))
        except (KafkaError, TimeoutError) as error:
            raise KafkaUnavailableError(f"describe topics: {error!r}") from error
        found: dict[str, Any] = response.to_object()
        for row in found["topics"]:
            if row["error_code"] == InvalidTopicError.errno:
                raise ConfigurationError(f"{row['name']!r} cannot be a topic's name")
            if row["error_code"] not in (_NO_ERROR, UnknownTopicOrPartitionError.errno) and (
                for_code(row["error_code"]).retriable is False
            ):
                kind = for_code(row["error_code"]).__name__
                raise KafkaUnavailableError(f"describe topic {row['name']}: {kind}")
        return found

    async def _configs(self, names: list[str]) -> dict[str, dict[str, str]]:
        if not names:
            return {}
        resources = [ConfigResource(ConfigResourceType.TOPIC, name) for name in names]
        try:
            responses = await self._admin.describe_configs(resources)
        except (KafkaError, TimeoutError) as error:
            raise KafkaUnavailableError(f"describe topic settings: {error!r}") from error
        return {
            row["resource_name"]: {
                entry["config_names"]: entry["config_value"] for entry in row["config_entries"]
            }
            for response in responses
            for row in response.to_object()["resources"]
            if row["error_code"] == _NO_ERROR
        }


def drifts_of(
    topic: Topic, state: TopicState, replication: int, durability: dict[str, str]
) -> list[TopicDrift]:
    """Return where one topic differs from what is wanted; pure.

    Settings that are not in `topic.config` count only if they cannot work, see `_unworkable`.
    Workers and edges can read any `compression.type`.
    """
    pairs: list[tuple[str, str, str]] = [
        ("partitions", str(topic.partitions), str(state.partitions)),
        ("replication.factor", str(replication), str(state.replication)),
        *(
            (key, value, state.config.get(key, "unset"))
            for key, value in {**durability, **topic.config}.items()
        ),
    ]
    unworkable = {drift.key: drift for drift in _unworkable(topic, state)}
    drifts = [
        TopicDrift(topic.name, key, wanted, found, breaks=_breaks(key, wanted, found))
        for key, wanted, found in pairs
        if wanted != found and key not in unworkable
    ]
    return [*drifts, *unworkable.values()]


def _unworkable(topic: Topic, state: TopicState) -> Iterator[TopicDrift]:
    """Yield settings with which records are refused, or deleted before they can be read."""

    def drift(key: str, wanted: str, *, breaks: bool = True) -> TopicDrift:
        return TopicDrift(topic.name, key, wanted, state.config[key], breaks=breaks)

    def found(key: str, otherwise: int) -> int:
        text = state.config.get(key, "")
        return int(text) if text.lstrip("-").isdecimal() else otherwise

    if found("min.insync.replicas", 1) > state.replication:
        yield drift("min.insync.replicas", f"at most {state.replication}, its number of replicas")
    record_bytes = int(topic.config.get("max.message.bytes", "0"))
    if found("segment.bytes", record_bytes) < record_bytes:
        yield drift("segment.bytes", f"at least {record_bytes}, the largest record")
    if topic.config.get("cleanup.policy") != "delete":
        return
    if 0 <= found("retention.ms", -1) < RETENTION_MS_MIN:
        yield drift("retention.ms", f"{topic.config['retention.ms']}, at least {RETENTION_MS_MIN}")
    if found("retention.bytes", -1) >= 0:
        # a log that is also bounded by size keeps records for less time than is promised
        yield drift("retention.bytes", "-1", breaks=False)


def _breaks(key: str, wanted: str, found: str) -> bool:
    """Tell whether a difference loses or refuses records, beyond how long they are kept."""
    if key == "cleanup.policy":
        return True  # a compacted log of events has holes, a deleted table forgets
    if key == "max.message.bytes":
        return int(found) < int(wanted)  # the broker would refuse records that we take as fitting
    if key == "unclean.leader.election.enable":
        return found == "true"  # an acked record may vanish
    return False
