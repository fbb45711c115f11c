"""Liveness, readiness and metrics: `/healthz`, `/readyz`, `/metrics`."""

import asyncio
from collections.abc import Iterator

import msgspec
from fastapi import APIRouter, Request
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.responses import Response

from turnstream.streams.edge.server.context import EdgeContext, edge_of
from turnstream.streams.process.garbage import pauses
from turnstream.streams.process.metrics import unexpected_errors

router = APIRouter(tags=["health"])
CHECK_TIMEOUT_S = 2.0


@router.get("/healthz", summary="Alive")
async def healthz() -> dict[str, str]:
    """Answer while the process lives."""
    return {"status": "ok"}


@router.get("/readyz", summary="Ready")
async def readyz(request: Request) -> Response:
    """Answer 200 if clients may be sent here, else 503.

    `checks` names each part; any other value than `ok` or one that begins with `off` is a failure.
    """
    edge = edge_of(request)
    try:
        async with asyncio.timeout(CHECK_TIMEOUT_S):
            checks = await edge.ready()
    except TimeoutError:
        checks = {"checks": "timed out"}
    ready = all(value == "ok" or value.startswith("off") for value in checks.values())
    body = {"status": "ready" if ready else "not ready", "checks": checks}
    return Response(
        msgspec.json.encode(body),
        status_code=200 if ready else 503,
        media_type="application/json",
    )


@router.get("/metrics", response_class=Response)
async def metrics(request: Request) -> Response:
    """Return Prometheus metrics."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(EdgeCollector(edge_of(request)))
    return Response(generate_latest(registry), media_type="text/plain; version=0.0.4")


def _known(count: int | None) -> int:
    return -1 if count is None else count


class EdgeCollector(Collector):
    """Reads the edge's counters when Prometheus asks."""

    def __init__(self, edge: EdgeContext) -> None:
        self._edge = edge

    def collect(self) -> Iterator[Metric]:
        """Yield every metric of the edge."""
        edge = self._edge
        sockets, feed, tail, arrivals = edge.sockets, edge.feed, edge.tail, edge.arrivals
        gauges = {
            "sockets": ("open sockets, streams, answers waited for", len(sockets.outlets)),
            "connections_waiting": ("whose request is not here yet", len(arrivals.waiting)),
            "workers": ("that hold a lease; -1: not known", _known(edge.pressure.workers)),
            "threads_watched": ("threads with a watcher", len(feed.threads)),
            "backlog_bytes": (
                "bytes that clients have not taken",
                sum(outlet.buffered for outlet in sockets.outlets if outlet.open),
            ),
            "ring_bytes": ("bytes of log in memory", tail.ring_bytes if tail else 0),
            "tail_silent_seconds": ("since a broker answered", tail.lag_s if tail else 0),
            "incarnation": ("of the event topic", feed.incarnation),
            "loop_lag_seconds": ("how late the event loop was lately", edge.lag.mean_s),
        }
        counters = {
            "frames": ("events written to sockets", sockets.frames_total),
            "refills": ("readers that fell behind", sockets.refills + feed.refills),
            "resets": ("cursors that could not be honoured", feed.resets),
            "aborted": ("sockets that made no progress", sockets.aborted),
            "connections_evicted": ("made room for newer ones", arrivals.evicted),
            "connections_refused": ("found no room", arrivals.refused),
            "connections_late": ("whose request did not arrive in time", arrivals.timed_out),
            "records": ("records seen by the tail", tail.records if tail else 0),
            "records_followed": ("of threads watched here", tail.followed_records if tail else 0),
            "fetches": ("answers from brokers", tail.fetches if tail else 0),
        }
        for name, (text, value) in gauges.items():
            yield GaugeMetricFamily(f"turnstream_edge_{name}", text, value=float(value))
        for name, (text, value) in counters.items():
            yield CounterMetricFamily(f"turnstream_edge_{name}", text, value=float(value))
        yield unexpected_errors()
        yield from pauses.metrics()
