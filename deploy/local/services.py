"""The parts that are turnstream itself: workers, the edge, the usage processor.

Each is this Python running `turnstream.streams.cli`; variables `TURNSTREAM_*` tell it where the
other parts are.
"""

from __future__ import annotations

import http.client
import sys
from typing import TYPE_CHECKING

from turnstream.deploy.local.part import Part

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_READY_TIMEOUT_S = 5
_PROCESSOR_READY = "Worker]: Ready"  # Faust's own line
JWT_SECRET, MODEL_API_KEY = "TURNSTREAM_JWT_SECRET", "TURNSTREAM_MODEL_API_KEY"
_HAND_OVER_S = 15.0
"""What a worker may take to stop beyond its drain budget: calls in threads, unsent records."""


def worker_part(
    number: int, *, logs: Path, env: Mapping[str, str], port: int, drain_s: float
) -> Part:
    """Return worker `number` (from 1); it answers `/readyz` on `port`.

    `drain_s`: its drain budget; it is not killed before that is over.
    """
    return Part(
        name=f"worker-{number}",
        argv=_command("worker"),
        log=logs / f"worker-{number}.log",
        env={**env, "TURNSTREAM_WORKER_HEALTH_PORT": str(port)},
        ready=lambda: answers_ready(port),
        ports={"health": port},
        tier=1,
        stop_timeout_s=drain_s + _HAND_OVER_S,
    )


def edge_part(*, logs: Path, env: Mapping[str, str], port: int) -> Part:
    """Return the edge, which serves on `port`."""
    return Part(
        name="edge",
        argv=_command("edge"),
        log=logs / "edge.log",
        env={**env, "TURNSTREAM_EDGE_PORT": str(port)},
        ready=lambda: answers_ready(port),
        url=f"http://127.0.0.1:{port}",
        ports={"http": port},
        tier=2,
    )


def processor_part(*, folder: Path, logs: Path, env: Mapping[str, str]) -> Part:
    """Return the usage processor. It serves nothing; it is ready once its log has Faust's line."""
    log = logs / "processor.log"
    return Part(
        name="processor",
        argv=_command("processor", "usage"),
        log=log,
        env={**env, "TURNSTREAM_PROCESSOR_FOLDER": str(folder)},
        ready=lambda: _PROCESSOR_READY in log.read_text(errors="replace"),
        tier=2,
    )


def answers_ready(port: int) -> bool:
    """Return whether `/readyz` on that port answers 200; raises `OSError` without an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_READY_TIMEOUT_S)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == http.client.OK
    except http.client.HTTPException as error:
        raise ConnectionError(str(error)) from error
    finally:
        connection.close()


def _command(*words: str) -> tuple[str, ...]:
    return (sys.executable, "-m", "turnstream.streams.cli", *words)
