"""Start a turn with Kafka's own console tools: no Python, no Avro, one line on standard input.

    echo '{"thread_id": "demo", "text": "hello"}' |
        kafka-console-producer.sh --bootstrap-server 127.0.0.1:9092 --topic turns.default
    kafka-console-consumer.sh --bootstrap-server 127.0.0.1:9092 --topic turn-results.default \
        --from-beginning

The same two programs are run here from Kafka's jars, which is what the scripts do.
"""

from __future__ import annotations

import json
import subprocess

PRODUCER = "org.apache.kafka.tools.ConsoleProducer"
CONSUMER = "org.apache.kafka.tools.consumer.ConsoleConsumer"


def produce(java: str, class_path: str, bootstrap: str, topic: str, line: dict[str, str]) -> None:
    """Publish one line of JSON."""
    _run(
        (java, "-cp", class_path, PRODUCER, "--bootstrap-server", bootstrap, "--topic", topic),
        json.dumps(line).encode() + b"\n",
    )


def consume(java: str, class_path: str, bootstrap: str, topic: str, count: int) -> bytes:
    """Return the first `count` records of a topic, as they are stored."""
    options = ("--from-beginning", "--max-messages", str(count), "--timeout-ms", "60000")
    return _run(
        (
            java,
            "-cp",
            class_path,
            CONSUMER,
            "--bootstrap-server",
            bootstrap,
            "--topic",
            topic,
            *options,
        ),
        b"",
    )


def _run(command: tuple[str, ...], given: bytes) -> bytes:
    done = subprocess.run(command, input=given, capture_output=True, timeout=90, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr.decode(errors="replace")[-2000:])
    return done.stdout
