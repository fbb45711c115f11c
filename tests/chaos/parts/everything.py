"""All faults of the parts, registered by being imported, and how often each is drawn."""

from __future__ import annotations

from tests.chaos.parts import (  # noqa: F401  they register what they define
    hostile_faults,
    link_faults,
    model_faults,
    server_faults,
    topic_faults,
)
from tests.chaos.parts.servers import open_servers

__all__ = ["WEIGHTS", "open_servers"]

WEIGHTS = {
    "cut-worker-kafka": 0.5,
    "stall-worker-kafka": 0.4,
    "delay-worker-kafka": 0.3,
    "deaf-worker-kafka": 0.4,
    "cut-worker-broker": 0.3,
    "stall-worker-broker": 0.3,
    "cut-worker-postgres": 0.5,
    "stall-worker-postgres": 0.4,
    "delay-worker-postgres": 0.3,
    "deaf-worker-postgres": 0.4,
    "end-worker-model": 0.3,
    "cut-worker-model": 0.3,
    "stall-worker-model": 0.3,
    "delay-worker-model": 0.2,
    "cut-edge-kafka": 0.4,
    "stall-edge-kafka": 0.3,
    "delay-edge-kafka": 0.2,
    "cut-edge-postgres": 0.4,
    "stall-edge-postgres": 0.3,
    "delay-edge-postgres": 0.2,
    "end-client-edge": 0.5,
    "cut-client-edge": 0.4,
    "stall-client-edge": 0.3,
    "delay-client-edge": 0.2,
    "model-errors": 0.4,
    "hostile-answers": 0.5,
    "hostile-graphs": 0.5,
    "hostile-records": 0.6,
    "refuse-records": 0.6,
    "stop-kafka": 0.15,
    "kill-kafka": 0.15,
    "stop-broker": 0.3,
    "kill-broker": 0.3,
    "freeze-broker": 0.2,
    "stop-postgres": 0.15,
    "kill-postgres": 0.15,
    "restore-postgres": 0.15,
    "fail-over": 0.15,
}
"""Beside ten faults that have a point (`story.Teller`). Those that harm all stages are dear: no
other story is played meanwhile."""
