"""Commands as a shell runs them: help, settings, topics."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import psycopg
import pytest

from turnstream.streams.cli import main

if TYPE_CHECKING:
    from pathlib import Path

GRAPH = """
from langgraph.graph import START, MessagesState, StateGraph
builder = StateGraph(MessagesState)
builder.add_node("node", lambda state: {})
builder.add_edge(START, "node")
graph = builder.compile()
def make(config):
    raise RuntimeError("no key")
"""
SECRET = "a-secret-that-nobody-may-see-0123456789"


def apart(*args: str, stdin: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    env = {key: value for key, value in os.environ.items() if not key.startswith("TURNSTREAM_")}
    return subprocess.run(
        [sys.executable, "-m", "turnstream.streams.cli", *args],
        check=False,
        env={**env, **{f"TURNSTREAM_{key}": value for key, value in environment.items()}},
        capture_output=True,
        input=stdin,
        text=True,
        timeout=120,
    )


@pytest.fixture
def run(monkeypatch, capsys):
    """Run a command inside this process, which saves the start of an interpreter."""

    def inside(*args: str, stdin: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
        for name in os.environ:
            if name.startswith("TURNSTREAM_"):
                monkeypatch.delenv(name)
        for name, value in environment.items():
            monkeypatch.setenv(f"TURNSTREAM_{name}", value)
        monkeypatch.setattr(sys, "argv", ["turnstream", *args])
        monkeypatch.setattr(sys, "path", [*sys.path])  # a graph's folder goes on it
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        return subprocess.CompletedProcess(args, ended.value.code, said.out, said.err)

    return inside


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
        ("tail",),
        ("restart",),
        ("chat",),
        ("dead-letters",),
        ("dead-letters", "requeue"),
    ],
)
def test_every_command_explains_itself(command: tuple[str, ...], run):
    shown = run(*command, "--help")

    assert shown.returncode == 0, shown.stderr
    assert "Usage: " in shown.stdout
    assert len(shown.stdout.splitlines()) > 5


@pytest.mark.parametrize("apart", [(), ("--detach",)])
def test_a_worker_without_a_model_is_refused_before_anything_starts(tmp_path, apart, run):
    refused = run("up", "--no-model", *apart)

    assert refused.returncode == 2
    assert "TURNSTREAM_MODEL_URL" in refused.stderr
    assert list(tmp_path.iterdir()) == []


def test_version(run):
    assert run("--version").stdout.startswith("turnstream ")


def test_config_shows_values_and_sources_but_no_secrets(tmp_path, run):
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


SHOWN = {
    "MODEL_URL": "http://user:PW-1@models.example/v1?api_key=PW-2&x=1",
    "MODEL_ROUTES": '{"m": "https://user:PW-3@m.example/v1", "k": "https://k/v1?token=PW-4"}',
    "SCHEMA_REGISTRY_URL": "https://PW-5:PW-6@registry.example",
    "JWKS_URL": "https://user:p@ss/PW-7@keys.example/jwks.json",
    "EDGE_URL": "http://user:PW-8@edge.example",
    "KAFKA_BOOTSTRAP": "user:PW-9@kafka.example:9092",
    "DATABASE_URL": "postgresql://user:PW-10@db.example/x",
    "DATABASE_DIRECT_URL": "host=db.example password=PW-11",
    "MODEL_API_KEY": "PW-12",
    "JWT_SECRET": "PW-13-0123456789-0123456789-0123456789",
    "ALLOWED_ORIGINS": "https://user:PW-14@o.example,https://p.example",
}


def test_config_show_hides_every_password_and_nothing_else(run):
    for form in (("--json",), ()):
        shown = run("config", "show", *form, **SHOWN)
        assert shown.returncode == 0, shown.stderr
        assert "PW-" not in shown.stdout
    rows = {row["name"]: row["value"] for row in json.loads(run(*SHOW, **SHOWN).stdout)}
    assert rows["model_url"] == "http://********@models.example/v1?api_key=********&x=1"
    assert rows["jwks_url"] == "https://********@keys.example/jwks.json"
    assert rows["kafka_bootstrap"] == "********@kafka.example:9092"
    assert rows["model_routes"]["m"] == "https://********@m.example/v1"
    assert rows["allowed_origins"] == ["https://********@o.example", "https://p.example"]
    assert rows["system_prompt"] == "You are a helpful assistant."


SHOW = ("config", "show", "--json")


def test_a_list_is_written_with_commas_and_an_unknown_name_is_refused(run):
    rows = {row["name"]: row["value"] for row in json.loads(run(*SHOW, TENANTS="a, b").stdout)}
    assert rows["tenants"] == ["a", "b"]
    refused = run("config", "show", KAFKA_BOOTSTRAPS="h:1")
    assert refused.returncode == 1
    assert "the nearest is TURNSTREAM_KAFKA_BOOTSTRAP)" in refused.stderr


AWAY = {
    "KAFKA_BOOTSTRAP": "127.0.0.1:1",
    "DATABASE_URL": "postgresql://user:PW-1@127.0.0.1:1/x",
    "MODEL_URL": "http://127.0.0.1:1/v1",
    "START_TIMEOUT_S": "0",
}


@pytest.mark.parametrize(
    ("command", "names"),
    [
        ("topics list", "Kafka at 127.0.0.1:1 does not answer"),
        ("topics check", "Kafka at 127.0.0.1:1 does not answer"),
        ("topics create", "Kafka at 127.0.0.1:1 does not answer"),
        ("replay view --thread t", "Kafka at 127.0.0.1:1 does not answer"),
        ("tail", "Kafka at 127.0.0.1:1 does not answer"),
        ("dead-letters list", "Postgres"),
        ("dead-letters show 0-1", "Postgres"),
        ("processor usage", "Postgres"),
        ("worker", "Postgres"),
        ("edge --port 0", "Postgres"),
        ("chat --url http://127.0.0.1:1", "the edge at http://127.0.0.1:1 does not answer"),
    ],
)
def test_a_server_that_is_away_is_said_in_one_sentence(command: str, names: str, run):
    # a long-lived process replaces the standard streams, so it needs a process of its own
    lasts = command.split(maxsplit=1)[0] in {"processor", "worker", "edge"}
    failed = (apart if lasts else run)(*command.split(), stdin="hello", **AWAY)

    assert failed.returncode == 1
    [sentence] = failed.stderr.splitlines()
    assert names in sentence
    assert failed.stdout == ""


@pytest.mark.parametrize(
    ("command", "names"),
    [
        ("replay view --turn notuuid", "'notuuid' is not a UUID"),
        ("replay view --thread t --tenant a/b", "--tenant"),
        ("replay view", "--thread or --turn"),
        ("dead-letters list --state foo", "requeue_due"),
        ("dead-letters list --tenant a/b", "--tenant"),
        ("dead-letters list --after 3", "--after"),
        ("dead-letters list --from -1", "--from"),
        ("dead-letters list --partition -2", "--partition"),
        ("dead-letters show 3", "partition-offset"),
        ("dead-letters drop 3-1 x", "partition-offset"),
        ("dead-letters requeue 3", "partition-offset"),
        ("dead-letters requeue 3-1 --wait -1", "--wait"),
        ("chat --url foo", "--url"),
        ("chat --url http://", "--url"),
        ("edge --port 70000", "--port"),
        ("up --only kafka,redis", "no such part: redis"),
        ("tail --type Token", "TokensEmitted"),
        ("tail --since yesterday", "10m"),
        ("tail --turn notuuid", "not a UUID"),
        ("tail --thread t --tenant a/b", "--tenant"),
        ("topics list --dir /etc/passwd", "is a file"),
    ],
)
def test_a_wrong_value_is_a_usage_error(command: str, names: str, run):
    refused = run(*command.split(), stdin="hello", **AWAY)

    assert refused.returncode == 2
    assert names in " ".join(refused.stderr.replace("│", "").split())


def test_config_env_is_a_file_that_sets_nothing_but_names_everything(tmp_path, run):
    shown = run("config", "env")
    (tmp_path / ".env").write_text(shown.stdout.replace("#TURNSTREAM_", "TURNSTREAM_"))

    again = run("config", "show", "--json")

    assert again.returncode == 0, again.stderr  # every default reads back
    before = {
        row["name"]: row["value"] for row in json.loads(run("config", "show", "--json").stdout)
    }
    assert len(before) == shown.stdout.count("#TURNSTREAM_")


def test_a_wrong_setting_is_named(run):
    wrong = run("config", "show", PARTITIONS="0")

    assert wrong.returncode == 1
    assert "TURNSTREAM_PARTITIONS" in wrong.stderr
    assert "Traceback" not in wrong.stderr


def test_config_check_finds_what_does_not_fit_together(run):
    found = run("config", "check", "--offline", "--json", JWT_SECRET="short", TENANTS='["a b"]')

    assert found.returncode == 3
    failed = {row["check"] for row in json.loads(found.stdout) if not row["ok"]}
    assert failed == {"jwt_secret", "tenants"}
    assert run("config", "check", "--offline", EDGE_HOST="0.0.0.0").returncode == 3
    assert run("config", "check", "--offline").returncode == 0


@pytest.mark.parametrize(
    ("source", "reference", "more", "detail"),
    [
        (GRAPH, "graph", {}, "mine"),
        (GRAPH, "make", {}, "{folder}/mine.py:8"),
        ("\nimport no_such_module", "graph", {}, "{folder}/mine.py:2"),
        ("\n\n  x = 1", "graph", {}, "{folder}/mine.py:3"),
        (GRAPH, "graph", {"store": {"index": {}}}, "'store' is not supported"),
        (GRAPH, "graph", {"dependencies": ["./gone"]}, "there is no folder"),
    ],
    ids=["good", "raises", "import", "indent", "store", "folder"],
)
def test_config_check_loads_the_graphs_and_names_file_and_line(
    source, reference, more, detail, tmp_path: Path, run
):
    (tmp_path / "mine.py").write_text(source)
    path = tmp_path / "langgraph.json"
    path.write_text(json.dumps({"graphs": {"mine": f"./mine.py:{reference}"}, **more}))
    given = run("config", "check", "--offline", "--json", LANGGRAPH_JSON=str(path))
    (row,) = [row for row in json.loads(given.stdout) if row["check"] == "graphs"]
    assert given.returncode == (0 if row["ok"] else 3)
    assert row["ok"] == (detail == "mine")
    assert detail.format(folder=tmp_path) in row["detail"]


def test_config_check_wants_a_database_that_keeps_what_it_says(database: str, run):
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


def test_a_command_says_what_it_lacks(run):
    lacking = run("topics", "list")

    assert lacking.returncode == 1
    assert "TURNSTREAM_KAFKA_BOOTSTRAP is not set" in lacking.stderr


def test_topics_are_created_listed_and_checked(kafka: str, prefix: str, run):
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
