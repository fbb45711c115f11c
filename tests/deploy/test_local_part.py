"""One part's life, with small programs in the servers' place."""

import signal
import socket
import sys
import time
from pathlib import Path

import pytest

from turnstream.deploy.local import machine
from turnstream.deploy.local.folder import stop_parts
from turnstream.deploy.local.model import explain
from turnstream.deploy.local.part import Part, Running
from turnstream.deploy.local.process import Identity, identify
from turnstream.deploy.local.services import worker_part
from turnstream.deploy.local.state import PartState, StackState, Status
from turnstream.schemas.errors import PartError
from turnstream.streams.worker.drain import HALT_TIMEOUT_S
from turnstream.streams.worker.worker import FLUSH_TIMEOUT_S


def part(tmp_path: Path, code: str, **changes) -> Part:
    given = {
        "name": "small",
        "argv": (sys.executable, "-u", "-c", code),
        "log": tmp_path / "small.log",
        "env": machine.environment(),
        "ready": lambda: "serving" in (tmp_path / "small.log").read_text(),
    }
    return Part(**given | changes)


def wait_ready(running: Running) -> None:
    deadline = time.monotonic() + 60
    while not running.poll():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_death_before_ready_tells_cause_and_last_lines(tmp_path):
    (tmp_path / "small.log").write_text("of an earlier start\n")
    running = Running(part(tmp_path, "print('no such disk'); raise SystemExit(7)"))
    with pytest.raises(PartError) as failed:
        wait_ready(running)
    assert (failed.value.part, failed.value.cause) == ("small", "ended with exit code 7")
    assert failed.value.tail == ("no such disk",)


def test_not_ready_in_time_is_a_failure(tmp_path):
    running = Running(part(tmp_path, "import time; time.sleep(60)", ready_timeout_s=0.3))
    with pytest.raises(PartError, match="not ready after"):
        wait_ready(running)
    running.identity.send(signal.SIGKILL)
    running.reap()


def test_silent_early_death_is_tried_once_more(tmp_path):
    code = (
        "import pathlib, sys, time; mark = pathlib.Path(sys.argv[1])\n"
        "if not mark.exists(): mark.touch(); sys.exit(1)\n"
        "print('serving'); time.sleep(60)"
    )
    argv = (sys.executable, "-u", "-c", code, str(tmp_path / "mark"))
    silent = {"again": lambda logged: not logged, "restarts_max": 1, "restart_pause_s": 0.0}
    running = Running(part(tmp_path, "", argv=argv, **silent))
    wait_ready(running)
    running.identity.send(signal.SIGKILL)
    running.reap()

    running = Running(part(tmp_path, "raise SystemExit(1)", **silent))
    (tmp_path / "small.log").write_text("")
    with pytest.raises(PartError, match="exit code 1"):
        wait_ready(running)


def test_a_port_that_was_taken_meanwhile_is_named(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code = f"import socket; socket.create_server(('127.0.0.1', {port}))"
        running = Running(part(tmp_path, code, ports={"http": port}))
        with pytest.raises(PartError) as failed:
            wait_ready(running)
    assert failed.value.part == "small"
    assert f"has taken its port since it was chosen: {port} (http)" in failed.value.cause


def test_an_illegal_instruction_is_explained(tmp_path):
    code = "import os, signal; os.kill(os.getpid(), signal.SIGILL)"
    running = Running(part(tmp_path, code, explain=explain))
    with pytest.raises(PartError, match="this CPU lacks an instruction"):
        wait_ready(running)


def test_who_does_not_stop_is_killed(tmp_path):
    code = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "print('serving'); time.sleep(60)"
    )
    running = Running(part(tmp_path, code))
    wait_ready(running)
    state = StackState(
        parts=[
            PartState(
                name="small", status=Status.READY, process=running.identity, stop_timeout_s=0.3
            )
        ]
    )
    assert stop_parts(state) == ["small"]
    running.reap()
    assert running.ended() == "was ended by signal SIGKILL"


def test_hurry_waits_for_nobody(tmp_path):
    code = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "print('serving'); time.sleep(60)"
    )
    running = Running(part(tmp_path, code))
    wait_ready(running)
    stubborn = PartState(
        name="small", status=Status.READY, process=running.identity, stop_timeout_s=600
    )
    began = time.monotonic()
    stop_parts(StackState(parts=[stubborn]), hurry=lambda: True)
    assert time.monotonic() - began < 300, "its time was waited for"
    running.reap()
    assert running.ended() == "was ended by signal SIGKILL"


def test_identity_is_pid_and_start(tmp_path):
    running = Running(part(tmp_path, "print('serving'); import time; time.sleep(60)"))
    wait_ready(running)
    identity = running.identity
    assert identity == identify(identity.pid)
    later = Identity(pid=identity.pid, started=identity.started + 1, boot=identity.boot)
    other_boot = Identity(pid=identity.pid, started=identity.started, boot="another")
    for stranger in (later, other_boot):
        assert not stranger.alive()
        assert not stranger.send(signal.SIGKILL)
    assert identity.alive()
    assert identity.send(signal.SIGKILL)
    running.reap()
    assert not identity.alive()


@pytest.mark.parametrize(
    ("outgoing", "allowed"),
    [
        ("32768\t60999", range(20_000, 32_000)),
        ("20010 60999", range(20_000, 20_010)),
        ("1024 65535", range(20_000, 32_000)),  # nothing is left but to try
    ],
)
def test_ports_are_apart_from_those_of_outgoing_connections(
    tmp_path, monkeypatch, outgoing, allowed
):
    path = tmp_path / "range"
    path.write_text(outgoing)
    monkeypatch.setattr(machine, "_OUTGOING", path)
    ports = machine.Ports()
    assert all(ports.take() in allowed for _ in range(3))


def test_ports_are_given_once_and_remembered_ones_first():
    ports = machine.Ports()
    first = ports.take()
    assert ports.take(remembered=first) != first
    assert machine.Ports().take(remembered=first) == first


def test_a_worker_is_not_killed_while_it_hands_over(tmp_path: Path) -> None:
    for drain_s in (20.0, 300.0):
        part = worker_part(1, logs=tmp_path, env={}, port=1, drain_s=drain_s)
        assert part.stop_timeout_s > drain_s + HALT_TIMEOUT_S + FLUSH_TIMEOUT_S
