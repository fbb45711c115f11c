"""The real stack for every test: Kafka and Postgres.

`TURNSTREAM_TEST_KAFKA` (host:port) and `TURNSTREAM_TEST_DATABASE` (a URL whose user may create
databases) name servers that already run; the rest is started once a session, from packages, with
its data in memory where there is room.
"""

from __future__ import annotations

import contextlib
import gc
import os
import shutil
import tempfile
import uuid
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

MEMORY = Path("/dev/shm")
MEMORY_FREE_MIN = 8 << 30
"""Bytes; a whole session writes less than 3 GiB."""
LOANS_MAX = 25
"""Of one database: what is deleted still lies in its files."""

_AS_MIGRATED = """
CREATE SCHEMA as_migrated;
CREATE TABLE as_migrated.tally AS TABLE public.tally;
"""
_ENDED = """
SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity
 WHERE datname = current_database() AND pid <> pg_backend_pid()
   AND backend_type = 'client backend'
"""
_EMPTIED = """
DO $$
DECLARE
  name text;
BEGIN
  FOR name IN SELECT tablename FROM pg_tables WHERE schemaname = 'public'
    AND tablename NOT IN ('turnstream_revision', 'checkpoint_migrations')
  LOOP
    EXECUTE format('DELETE FROM %I', name);
  END LOOP;
  INSERT INTO tally SELECT * FROM as_migrated.tally;
  PERFORM setval(sequencename::regclass, start_value, false)
     FROM pg_sequences WHERE schemaname = 'public';
  PERFORM adopt_timeline();
END $$
"""
_SHAPE = """
SELECT (SELECT count(*) FROM pg_class), (SELECT count(*) FROM pg_proc),
       (SELECT count(*) FROM pg_trigger)
"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs a server by the fixtures that it uses, however far down."""
    for item in items:
        if "starts_servers" in getattr(item, "fixturenames", ()):
            item.add_marker("servers")


@pytest.fixture(scope="session")
def starts_servers() -> None:
    """Say that what requests this starts or uses a server, or a package index."""


@pytest.fixture(scope="session")
def stack(starts_servers: None) -> Iterator[dict[str, str]]:
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
    with _folder() as folder, LocalStack(folder, parts=missing) as local:
        yield {
            "kafka": given["kafka"] or local.kafka_bootstrap,
            "database": given["database"] or local.database_url,
        }


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    """A folder for the servers' data: in memory, where a topic's 32 partitions wait for no disk."""
    roomy = MEMORY.is_dir() and shutil.disk_usage(MEMORY).free >= MEMORY_FREE_MIN
    begins = os.environ.get("TURNSTREAM_TEST_SERVERS", "turnstream-tests-")
    folder = Path(tempfile.mkdtemp(prefix=begins, dir=MEMORY if roomy else None))
    folder.chmod(0o711)  # Postgres' account goes through it
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


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
    url = _create(stack["database"])
    try:
        yield url
    finally:
        _drop(stack["database"], url)


class Ledgers:
    """Migrated databases that are lent to one test after the other, and emptied in between.

    That takes a tenth of the time of a new one; one whose schema was changed is not lent again.
    """

    def __init__(self, admin: str) -> None:
        self._admin = admin
        self._free: list[tuple[str, int]] = []  # with its loans so far

    @contextlib.contextmanager
    def lent(self) -> Iterator[str]:
        """Lend one."""
        url, loans = self._free.pop() if self._free else (self._made(), 0)
        try:
            yield url
        finally:
            if loans + 1 < LOANS_MAX and self._emptied(url):
                self._free.append((url, loans + 1))
            else:
                _drop(self._admin, url)

    def close(self) -> None:
        """Drop them."""
        while self._free:
            _drop(self._admin, self._free.pop()[0])

    def _made(self) -> str:
        from turnstream.connectors.postgres.migrate import migrate

        url = _create(self._admin)
        migrate(url)
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(_AS_MIGRATED)
            self._shape = connection.execute(_SHAPE).fetchone()
        return url

    def _emptied(self, url: str) -> bool:
        """End who is still there and empty it; False if it is not what it was."""
        try:
            with psycopg.connect(url, autocommit=True) as connection:
                connection.execute(_ENDED)
                connection.execute(_EMPTIED)
                return connection.execute(_SHAPE).fetchone() == self._shape
        except psycopg.Error:
            return False


def _create(admin: str) -> str:
    name = f"t{uuid.uuid4().hex[:12]}"
    with psycopg.connect(admin, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
    return urlunsplit(urlsplit(admin)._replace(path=f"/{name}"))


def _drop(admin: str, url: str) -> None:
    with psycopg.connect(admin, autocommit=True) as connection:
        connection.execute(f'DROP DATABASE IF EXISTS "{urlsplit(url).path[1:]}" WITH (FORCE)')


@pytest.fixture(scope="session")
def ledgers(stack: dict[str, str]) -> Iterator[Ledgers]:
    """Return what lends migrated databases."""
    made = Ledgers(stack["database"])
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def ledger_dsn(ledgers: Ledgers) -> Iterator[str]:
    """Return the URL of a migrated database in which nothing has happened."""
    with ledgers.lent() as url:
        yield url


@pytest.fixture
def uncollected() -> Iterator[None]:
    """Keep in `gc.garbage` what a collection finds, and make none meanwhile."""
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    yield
    gc.set_debug(0)
    gc.garbage.clear()
    gc.enable()
