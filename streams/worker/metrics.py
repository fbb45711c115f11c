"""What a worker counts, for Prometheus. One registry a worker; nothing here decides anything."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.registry import Collector

from turnstream.streams.process.garbage import pauses
from turnstream.streams.process.memory import resident_bytes
from turnstream.streams.process.metrics import unexpected_errors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from prometheus_client.core import Metric

    from turnstream.connectors.kafka.write.pump import Pump
    from turnstream.schemas.records.results import Outcome
    from turnstream.streams.process.loop_watch import LoopWatch
    from turnstream.streams.process.pace import Pace
    from turnstream.streams.worker.emitter import TurnEmitter
    from turnstream.streams.worker.intake import Intake
    from turnstream.streams.worker.worker import Worker

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class _OfProcess(Collector):
    def collect(self) -> Iterator[Metric]:
        yield unexpected_errors()
        yield from pauses.metrics()


class WorkerMetrics:
    """The metrics of one worker process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(_OfProcess())
        self.turns = Counter(
            "turnstream_turns",
            "Turns that ended on this worker, by status and code",
            ["status", "code"],
            registry=self.registry,
        )
        self.tokens = Counter(
            "turnstream_tokens", "Tokens said, before they were joined", registry=self.registry
        )
        self.retries = Counter(
            "turnstream_task_retries",
            "Tasks that ran again inside an attempt, of turns that ended here",
            registry=self.registry,
        )
        self.purged = Counter(
            "turnstream_purged",
            "Rows of the ledger that this worker forgot, by table",
            ["table"],
            registry=self.registry,
        )
        self.turn_seconds = Histogram(
            "turnstream_turn_seconds",
            "From the claim to the acked terminal",
            buckets=SECONDS,
            registry=self.registry,
        )
        self.first_token_seconds = Histogram(
            "turnstream_first_token_seconds",
            "From the claim to the turn's first token",
            buckets=SECONDS,
            registry=self.registry,
        )

    def watch(self, name: str, text: str, read: Callable[[], float]) -> None:
        """Add a gauge whose value is asked for when it is scraped."""
        Gauge(f"turnstream_{name}", text, registry=self.registry).set_function(read)

    def turn_over(self, outcome: Outcome, took_s: float, emitter: TurnEmitter) -> None:
        """Count a turn whose terminal is acked."""
        self.turns.labels(outcome.status, outcome.code).inc()
        self.tokens.inc(emitter.tokens_said)
        self.retries.inc(emitter.retries)
        self.turn_seconds.observe(took_s)
        if emitter.first_token_s is not None:
            self.first_token_seconds.observe(emitter.first_token_s)

    def forgot(self, table: str, rows: int) -> None:
        """Count rows that were purged."""
        self.purged.labels(table).inc(rows)

    def text(self) -> bytes:
        """Return the exposition format."""
        return generate_latest(self.registry)


def watch_worker(
    metrics: WorkerMetrics,
    worker: Worker,
    pump: Pump,
    intake: Intake,
    *,
    pace: Pace,
    loop_watch: LoopWatch,
) -> None:
    """Add the gauges that are read off a worker's parts."""
    roster, counts = worker.roster, worker.roster.counts
    for name, text, read in (
        ("turns_running", "Turns that run here", lambda: len(roster.running)),
        ("turns_claimed", "Claims since the start", lambda: counts.claimed),
        ("turns_finished", "Turns closed since the start", lambda: roster.finishes.finished),
        ("turns_released", "Attempts that ended without closing", lambda: counts.released),
        ("attempts_broken", "Attempts that raised, since the start", lambda: counts.broken),
        ("memory_bytes", "Resident memory of this process", resident_bytes),
        ("turns_limit", "Turns that may run here, by the loop's lag", lambda: pace.limit),
        ("loop_lag_seconds", "How late the event loop was lately", lambda: pace.lag_s),
        ("graphs_blocked", "Turns stopped that blocked the loop", lambda: loop_watch.stopped),
        ("turns_suspect", "Turns that run here as suspects", lambda: roster.slots.suspects),
        (
            "records_passed",
            "Records of the input topics taken since the start",
            lambda: intake.passed,
        ),
        ("commands_admitted", "Commands taken in since the start", lambda: intake.admitted),
        ("dead_letters", "Records refused since the start", lambda: intake.dead_letters),
        ("pump_rounds", "Produce rounds since the start", lambda: pump.rounds),
        ("pump_records", "Records produced since the start", lambda: pump.records),
        ("pump_refusals", "Batches that the broker refused", lambda: pump.refusals),
        ("pump_queued_bytes", "Bytes that wait for a round", lambda: pump.queued_bytes),
        ("pump_stalled_seconds", "Age of the oldest unacked round", pump.stalled_s),
        ("ready", "Whether this worker takes turns", lambda: not worker.not_ready()),
    ):
        metrics.watch(name, text, read)
