from __future__ import annotations

import subprocess
import sys

import psycopg
import pytest
from langgraph.checkpoint.postgres import PostgresSaver
from psycopg.rows import dict_row

from turnstream.connectors.postgres.migrate import migrate
from turnstream.schemas.errors import ConfigurationError, DatabaseUnavailableError

_CALL = (
    "import sys; from turnstream.connectors.postgres.migrate import migrate; migrate(sys.argv[1])"
)


def revision(dsn: str) -> list[tuple[str]]:
    with psycopg.connect(dsn) as connection:
        return connection.execute("SELECT version_num FROM turnstream_revision").fetchall()


def test_four_processes_at_once(database):
    processes = [
        subprocess.Popen([sys.executable, "-c", _CALL, database], stderr=subprocess.PIPE)
        for _ in range(4)
    ]
    for process in processes:
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors.decode()
    assert len(revision(database)) == 1
    with psycopg.connect(database) as connection:
        row = connection.execute("SELECT count(*), max(v) FROM checkpoint_migrations").fetchone()
    assert row == (len(PostgresSaver.MIGRATIONS), len(PostgresSaver.MIGRATIONS) - 1)


def test_a_second_run_changes_nothing(database):
    migrate(database)
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("INSERT INTO threads (thread_key, partition) VALUES ('a/b', 1)")
        migrate(database)
        assert connection.execute("SELECT thread_key FROM threads").fetchall() == [("a/b",)]
        assert connection.execute("SELECT count(*) FROM tally").fetchone() == (64,)


def test_the_checkpoint_tables_are_langgraphs(database):
    migrate(database)
    with psycopg.connect(database, autocommit=True, row_factory=dict_row) as connection:
        saver = PostgresSaver(connection)
        saver.setup()
        assert list(saver.list(None)) == []


def test_one_that_waits_too_long_says_so(database):
    with psycopg.connect(database, autocommit=True) as other:
        other.execute("SELECT pg_advisory_lock(%s)", (0x7475726E_73747265,))
        with pytest.raises(DatabaseUnavailableError, match="another process"):
            migrate(database, lock_wait_s=0.2)


def test_no_server_is_our_error():
    with pytest.raises(DatabaseUnavailableError):
        migrate("postgresql://nobody@127.0.0.1:1/none")


def test_a_refused_statement_is_our_error(database):
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("CREATE TABLE threads (other int)")
    with pytest.raises(ConfigurationError, match="threads"):
        migrate(database)


def test_a_ledger_in_another_database_rises_above_what_it_has_seen(database):
    """A dump that is loaded elsewhere meets a server whose own timeline begins at 1 again."""
    migrate(database)
    with psycopg.connect(database, autocommit=True) as connection:
        value = connection.execute("SELECT raise_timeline()").fetchone()
        connection.execute(
            "INSERT INTO threads (thread_key, partition, epoch)"
            " VALUES ('a/b', 1, (7::bigint << 40) + 3)"
        )
        migrate(database)
        assert connection.execute("SELECT timeline()").fetchone() == value, "the same database"
        connection.execute("UPDATE timeline_shift SET system_id = 1")
        migrate(database)
        assert connection.execute("SELECT timeline()").fetchone() == (8,)
        migrate(database)
        assert connection.execute("SELECT timeline()").fetchone() == (8,)
