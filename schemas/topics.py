"""The topics: names, keys, clean-up, retention. `connectors/kafka/admin.py` makes and checks."""

from __future__ import annotations

from dataclasses import dataclass

DAY_MS = 86_400_000
EVENT_BYTES_MAX = 4 << 20  # a terminal carries the whole last message
COMMAND_BYTES_MAX = 1 << 20


@dataclass(frozen=True, slots=True)
class Topic:
    """What a topic has to be: `partitions`, and Kafka's topic settings by name."""

    name: str
    partitions: int
    config: dict[str, str]


@dataclass(frozen=True, slots=True)
class Topics:
    """The names of all topics, each behind `prefix` (for a Kafka that is shared)."""

    prefix: str = ""

    @property
    def turns(self) -> str:
        """Commands from our edges; key: thread."""
        return f"{self.prefix}turns"

    def turns_of(self, tenant: str) -> str:
        """Commands from a tenant's backends; key: thread."""
        return f"{self.prefix}turns.{tenant}"

    @property
    def events(self) -> str:
        """Every event of every turn; key: thread."""
        return f"{self.prefix}turn-events"

    def results_of(self, tenant: str) -> str:
        """One `TurnResult` a turn; key: thread."""
        return f"{self.prefix}turn-results.{tenant}"

    @property
    def usage(self) -> str:
        """`UsageTotal`; key: tenant/window/model."""
        return f"{self.prefix}usage"

    @property
    def dead_letters(self) -> str:
        """`DeadLetter`; key: the record's own."""
        return f"{self.prefix}dead-letters"

    def tenant_of(self, topic: str) -> str | None:
        """Return the tenant of an input topic, or None for the edges' own (it is in the body)."""
        head = f"{self.prefix}turns."
        return topic[len(head) :] if topic.startswith(head) else None

    def inputs(self, tenants: tuple[str, ...]) -> tuple[str, ...]:
        """Return every input topic."""
        return (self.turns, *(self.turns_of(tenant) for tenant in tenants))

    def all(self, tenants: tuple[str, ...], partitions: int) -> tuple[Topic, ...]:
        """Return what has to exist for these tenants (design: retention in days, 7/7/7/30/-/30)."""

        def delete(name: str, days: int, bytes_max: int) -> Topic:
            config = {
                "cleanup.policy": "delete",
                "retention.ms": str(days * DAY_MS),
                "max.message.bytes": str(bytes_max),
            }
            return Topic(name, partitions, config)

        return (
            delete(self.turns, 7, COMMAND_BYTES_MAX),
            *(delete(self.turns_of(tenant), 7, COMMAND_BYTES_MAX) for tenant in tenants),
            delete(self.events, 7, EVENT_BYTES_MAX),
            *(delete(self.results_of(tenant), 30, EVENT_BYTES_MAX) for tenant in tenants),
            Topic(self.usage, partitions, {"cleanup.policy": "compact"}),
            delete(self.dead_letters, 30, EVENT_BYTES_MAX),
        )
