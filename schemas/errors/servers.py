"""Kafka, Postgres and the schema registry, and what they refuse."""

from __future__ import annotations

from turnstream.schemas.errors.root import TurnstreamError


class UnavailableError(TurnstreamError):
    """A server that is needed does not answer."""

    code = "unavailable"
    retryable = True
    status = 503


class OverloadedError(UnavailableError):
    """The ledger has as many open turns as it accepts; try again later."""

    code = "overloaded"


class KafkaUnavailableError(UnavailableError):
    """Kafka does not answer, or refuses the record."""

    code = "kafka_unavailable"


class ProduceRefusedError(KafkaUnavailableError):
    """The broker refused a batch, so the attempts with a record in it are over."""

    code = "produce_refused"


class InputLostError(TurnstreamError):
    """Kafka deleted commands before a worker read them; an operator has to decide."""

    code = "input_lost"


class DatabaseUnavailableError(UnavailableError):
    """Postgres does not answer."""

    code = "database_unavailable"


class FencedError(TurnstreamError):
    """The thread's epoch or the database's timeline has risen: the attempt ends silently."""

    code = "fenced"


class TopicChangedError(UnavailableError):
    """The topic was deleted and created again while it was read."""

    code = "topic_changed"


class RegistryUnavailableError(UnavailableError):
    """The schema registry does not answer."""

    code = "registry_unavailable"
