"""aiokafka's clients, made and opened in one way."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiokafka.errors import KafkaError

from turnstream.schemas.errors import KafkaUnavailableError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

AWAY_PAUSE_S = 0.5
"""Seconds between two tries of a client to reach a Kafka that is away.

With aiokafka's own 0.1 s a process connects, fails and logs dozens of times a second, for as long
as Kafka is away. A Kafka that is back is found at most this much later.
"""

REQUEST_TIMEOUT_MS = 10_000
"""A broker that answers nothing is left after it; an answer's bytes come at more than 1.6 MB/s."""


def client_options(bootstrap: str, given: Mapping[str, object]) -> dict[str, object]:
    """Return the options of an aiokafka client: `given`, over those that all clients share."""
    return {
        "bootstrap_servers": bootstrap,
        "retry_backoff_ms": round(AWAY_PAUSE_S * 1000),
        **given,
    }


async def open_client(
    start: Callable[[], Awaitable[None]], close: Callable[[], Awaitable[None]], bootstrap: str
) -> None:
    """Start a client by its own `start`; close it where that fails.

    Raises `KafkaUnavailableError` where Kafka does not answer.
    """
    try:
        await start()
    except KafkaError as error:
        await close()
        raise KafkaUnavailableError(
            f"Kafka at {bootstrap} does not answer ({type(error).__name__})"
        ) from error
    except BaseException:
        await close()
        raise
