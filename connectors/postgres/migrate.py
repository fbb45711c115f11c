"""Bring a database to the schema that this version needs: the ledger and LangGraph's checkpoints.

Needs a direct connection: behind PgBouncer in transaction mode a session's advisory lock means
nothing. Any number of processes may call `migrate` at once.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import psycopg
import sqlalchemy
from alembic import command, op
from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from langgraph.checkpoint.postgres import PostgresSaver
from psycopg.rows import dict_row

from turnstream.schemas.errors import ConfigurationError, DatabaseUnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator

LOCK_WAIT_S = 120.0
_LOCK = 0x7475726E_73747265  # "turnstre": the advisory lock's key
_POLL_S = 0.05
_PACKAGE = "turnstream.connectors.postgres"


def migrate(dsn: str, *, lock_wait_s: float = LOCK_WAIT_S) -> None:
    """Run what is missing of the ledger's and the checkpoints' migrations; safe to repeat.

    Blocks until another process that migrates is done. Also lets the ledger take over a database
    that was copied or loaded from a dump: its timeline then rises above all that it has seen.
    Raises `DatabaseUnavailableError`, or `ConfigurationError` if the server refuses a statement.
    """
    try:
        with (
            psycopg.connect(dsn, autocommit=True, row_factory=dict_row, connect_timeout=10) as lock,
            _locked(lock, lock_wait_s),
        ):
            _upgrade(dsn)
            PostgresSaver(lock).setup()
            lock.execute("SELECT adopt_timeline()")
    except psycopg.OperationalError as error:
        raise DatabaseUnavailableError(f"cannot migrate: {error}") from error
    except (psycopg.Error, sqlalchemy.exc.SQLAlchemyError, CommandError) as error:
        raise ConfigurationError(f"cannot migrate: {error}") from error


def check_schema(dsn: str) -> None:
    """Raise `ConfigurationError` unless the ledger's schema is the one that this version needs.

    Blocks; raises `DatabaseUnavailableError` where the database does not answer.
    """
    wanted = ScriptDirectory.from_config(_config()).get_current_head()
    try:
        with psycopg.connect(dsn, connect_timeout=10) as connection:
            rows = connection.execute("SELECT version_num FROM turnstream_revision").fetchall()
    except psycopg.OperationalError as error:
        raise DatabaseUnavailableError(f"cannot read the schema's version: {error}") from error
    except psycopg.Error as error:
        raise ConfigurationError(
            f"the database has no tables of turnstream, or this user may not read them: {error} "
            "(start without --no-create)"
        ) from error
    found = ", ".join(row[0] for row in rows)
    if found != wanted:
        raise ConfigurationError(
            f"the database's schema is {found or 'none'}, this version needs {wanted}"
        )


def run_sql(name: str) -> None:
    """Run `sql/<name>.sql` inside the revision that calls this, as it stands."""
    text = files(_PACKAGE).joinpath("sql", f"{name}.sql").read_text(encoding="utf-8")
    # past SQLAlchemy: several statements in one text, and a percent sign means itself
    driver: Any = op.get_bind().connection.driver_connection
    driver.execute(text)


@contextmanager
def _locked(connection: psycopg.Connection[Any], wait_s: float) -> Iterator[None]:
    # Asks again and again rather than wait inside one statement: such a statement holds a snapshot,
    # and LangGraph's CREATE INDEX CONCURRENTLY waits for every snapshot older than itself.
    until = time.monotonic() + wait_s
    while not _try_lock(connection):
        if time.monotonic() > until:
            raise DatabaseUnavailableError(f"another process has migrated for {wait_s:.0f} s")
        time.sleep(_POLL_S)
    try:
        yield
    finally:
        connection.execute("SELECT pg_advisory_unlock(%s)", (_LOCK,))


def _try_lock(connection: psycopg.Connection[Any]) -> bool:
    row = connection.execute("SELECT pg_try_advisory_lock(%s) AS ours", (_LOCK,)).fetchone()
    return bool(row and row["ours"])


def _upgrade(dsn: str) -> None:
    config = _config()
    engine = sqlalchemy.create_engine(
        "postgresql+psycopg://",
        creator=lambda: psycopg.connect(dsn),
        poolclass=sqlalchemy.NullPool,
    )
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(files(_PACKAGE).joinpath("migrations")))
    return config
