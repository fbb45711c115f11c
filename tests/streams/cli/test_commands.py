"""Commands as a shell runs them: help, settings, topics."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import psycopg
import pytest

SECRET = "a-secret-that-nobody-may-see-0123456789"


def run(*args: str, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {key: value for key, value in os.environ.items() if not key.startswith("TURNSTREAM_")}
    return subprocess.run(
        [sys.executable, "-m", "turnstream.streams.cli", *args],
        check=False,
        env={**env, **{f"TURNSTREAM_{key}": value for key, value in environment.items()}},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    "command",
    [
        (),
        ("topics",),
        ("topics", "check"),
        ("replay", "view"),
        ("config", "check"),
        ("processor", "usage"),
        ("chat",),
        ("dead-letters",),
        ("dead-letters", "requeue"),
    ],
)
def test_every_command_explains_itself(command: tuple[str, ...]):
    shown = run(*command, "--help")

    assert shown.returncode == 0, shown.stderr
    assert "Usage: " in shown.stdout
    assert len(shown.stdout.splitlines()) > 5


@pytest.mark.parametrize("apart", [(), ("--detach",)])
def test_a_worker_without_a_model_is_refused_before_anything_starts(tmp_path, apart):
    refused = run("up", "--no-model", *apart)

    assert refused.returncode == 2
    assert "TURNSTREAM_MODEL_URL" in refused.stderr
    assert list(tmp_path.iterdir()) == []


def test_version():
    assert run("--version").stdout.startswith("turnstream ")


def test_config_shows_values_and_sources_but_no_secrets(tmp_path):
    (tmp_path / ".env").write_text("TURNSTREAM_PARTITIONS=7\nTURNSTREAM_TICK_MS=1\n")

    shown = run("config", "show", "--json", JWT_SECRET=SECRET, TICK_MS="2")

    assert shown.returncode == 0, shown.stderr
    rows = {row["name"]: row for row in json.loads(shown.stdout)}
    assert rows["partitions"] == {"name": "partitions", "value": 7, "source": ".env"}
    assert rows["tick_ms"] == {"name": "tick_ms", "value": 2.0, "source": "environment"}
    assert rows["edge_port"]["source"] == "default"
    assert rows["jwt_secret"]["value"] == "********"
    table = run("config", "show", JWT_SECRET=SECRET)
    assert SECRET not in shown.stdout + table.stdout


def test_config_env_is_a_file_that_sets_nothing_but_names_everything(tmp_path):
    shown = run("config", "env")
    (tmp_path / ".env").write_text(shown.stdout.replace("#TURNSTREAM_", "TURNSTREAM_"))

    again = run("config", "show", "--json")

    assert again.returncode == 0, again.stderr  # every default reads back
    before = {
        row["name"]: row["value"] for row in json.loads(run("config", "show", "--json").stdout)
    }
    assert len(before) == shown.stdout.count("#TURNSTREAM_")


def test_a_wrong_setting_is_named():
    wrong = run("config", "show", PARTITIONS="0")

    assert wrong.returncode == 1
    assert "TURNSTREAM_PARTITIONS" in wrong.stderr
    assert "Traceback" not in wrong.stderr


def test_config_check_finds_what_does_not_fit_together():
    found = run("config", "check", "--offline", "--json", JWT_SECRET="short", TENANTS='["a b"]')

    assert found.returncode == 3
    failed = {row["check"] for row in json.loads(found.stdout) if not row["ok"]}
    assert failed == {"jwt_secret", "tenants"}
    assert run("config", "check", "--offline", EDGE_HOST="0.0.0.0").returncode == 3
    assert run("config", "check", "--offline").returncode == 0


def test_config_check_wants_a_database_that_keeps_what_it_says(database: str):
    given = {"DATABASE_URL": database, "KAFKA_BOOTSTRAP": "127.0.0.1:1"}

    def postgres() -> dict[str, object]:
        found = json.loads(run("config", "check", "--json", **given).stdout)
        return next(row for row in found if row["check"] == "postgres")

    assert postgres()["ok"]
    with psycopg.connect(database, autocommit=True) as connection:
        name = connection.info.dbname
        connection.execute(f'ALTER DATABASE "{name}" SET synchronous_commit = off')
    assert not postgres()["ok"]
    assert "synchronous_commit=off" in str(postgres()["detail"])


def test_a_command_says_what_it_lacks():
    lacking = run("topics", "list")

    assert lacking.returncode == 1
    assert "TURNSTREAM_KAFKA_BOOTSTRAP is not set" in lacking.stderr


def test_topics_are_created_listed_and_checked(kafka: str, prefix: str):
    given = {"KAFKA_BOOTSTRAP": kafka, "TOPIC_PREFIX": prefix, "PARTITIONS": "2"}

    assert run("topics", "check", **given).returncode == 3
    created = json.loads(run("topics", "create", "--json", **given).stdout)
    assert len(created["created"]) == 6
    assert created["drift"] == []
    assert run("topics", "check", **given).returncode == 0
    listed = json.loads(run("topics", "list", "--json", **given).stdout)
    assert all(row["exists"] and row["partitions"] == 2 for row in listed)
    drift = run("topics", "check", "--json", **{**given, "PARTITIONS": "3"})
    assert drift.returncode == 3
    assert {row["key"] for row in json.loads(drift.stdout)} == {"partitions"}
