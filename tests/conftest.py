"""The real stack for every test: Kafka and Postgres.

`TURNSTREAM_TEST_KAFKA` (host:port) and `TURNSTREAM_TEST_DATABASE` (a URL whose user may create
databases) name servers that already run; the rest is started once a session, from packages.
"""

from __future__ import annotations

import os
import uuid
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def stack() -> Iterator[dict[str, str]]:
    """Bootstrap and database URL of servers that run until the session ends."""
    given = {
        "kafka": os.environ.get("TURNSTREAM_TEST_KAFKA", ""),
        "database": os.environ.get("TURNSTREAM_TEST_DATABASE", ""),
    }
    if all(given.values()):
        yield given
        return
    from turnstream.deploy.local import LocalStack

    missing = tuple(
        part for part, name in (("kafka", "kafka"), ("postgres", "database")) if not given[name]
    )
    with LocalStack(parts=missing) as local:
        yield {
            "kafka": given["kafka"] or local.kafka_bootstrap,
            "database": given["database"] or local.database_url,
        }


@pytest.fixture(scope="session")
def kafka(stack: dict[str, str]) -> str:
    """Return the bootstrap address of a real broker."""
    return stack["kafka"]


@pytest.fixture
def prefix() -> str:
    """Return a topic prefix that nobody else uses."""
    return f"t{uuid.uuid4().hex[:10]}-"


@pytest.fixture
def database(stack: dict[str, str]) -> Iterator[str]:
    """Return the URL of a fresh, empty database, dropped afterwards."""
    admin = stack["database"]
    name = f"t{uuid.uuid4().hex[:12]}"
    with psycopg.connect(admin, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
    try:
        yield urlunsplit(urlsplit(admin)._replace(path=f"/{name}"))
    finally:
        with psycopg.connect(admin, autocommit=True) as connection:
            connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
