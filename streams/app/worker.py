"""The composition of a worker."""

from __future__ import annotations

import os
import socket
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING

from turnstream.connectors.avro import Codec
from turnstream.connectors.kafka.admin import TopicAdmin
from turnstream.connectors.kafka.read.inbox import Inbox
from turnstream.connectors.kafka.write.producer import pump_producer
from turnstream.connectors.kafka.write.pump import Pump
from turnstream.connectors.postgres.checkpoints.commit_pool import commit_pool
from turnstream.connectors.postgres.checkpoints.saver import FencedSaver
from turnstream.connectors.postgres.ledger.lease import RENEW_EVERY_S, Lease
from turnstream.connectors.postgres.ledger.ledger import Ledger
from turnstream.connectors.postgres.ledger.signals import Signals
from turnstream.connectors.postgres.pools import ledger_pool, saver_pool
from turnstream.connectors.postgres.stores.letters import Letters
from turnstream.connectors.registry import open_registry
from turnstream.schemas.errors import ConfigurationError
from turnstream.streams.app.graphs import model_of, worker_catalog
from turnstream.streams.process.health import health_port
from turnstream.streams.process.loop_watch import LoopWatch
from turnstream.streams.process.memory import memory_limit, resident_bytes
from turnstream.streams.process.pace import Pace
from turnstream.streams.worker.admission import Rules
from turnstream.streams.worker.attempt import Bench, TurnAttempt
from turnstream.streams.worker.claims.reclaim import Reclaim
from turnstream.streams.worker.claims.roster import Roster
from turnstream.streams.worker.claims.slots import Slots
from turnstream.streams.worker.entry.dead_letters import DeadLetters
from turnstream.streams.worker.entry.positions import Positions
from turnstream.streams.worker.entry.record_reader import RecordReader
from turnstream.streams.worker.entry.requeues import Requeues
from turnstream.streams.worker.intake import Intake
from turnstream.streams.worker.metrics import WorkerMetrics, watch_worker
from turnstream.streams.worker.outlets import Outlets
from turnstream.streams.worker.polls import Polls
from turnstream.streams.worker.purge import Purge
from turnstream.streams.worker.results import Results
from turnstream.streams.worker.unclaimed import Unclaimed
from turnstream.streams.worker.wake_ups import WakeUps
from turnstream.streams.worker.watch.beats import Beats
from turnstream.streams.worker.watch.hearing import Hearing
from turnstream.streams.worker.watch.memory_guard import MemoryGuard
from turnstream.streams.worker.watch.probe import Probe
from turnstream.streams.worker.watch.standing import Standing
from turnstream.streams.worker.watch.stopping import Stopping
from turnstream.streams.worker.watch.tenure import Tenure
from turnstream.streams.worker.worker import Worker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from uuid import UUID

    from turnstream.connectors.kafka.admin import TopicState
    from turnstream.connectors.postgres.ledger.lease import LeaseState
    from turnstream.graph.langgraph.catalog import Catalog
    from turnstream.streams.app.settings import Settings
    from turnstream.streams.worker.worker import Loop


@asynccontextmanager
async def open_worker(
    settings: Settings,
    *,
    name: str = "",
    catalog: Catalog | None = None,
    replace: Callable[[], None] | None = None,
) -> AsyncIterator[Worker]:
    """Open a worker; its `run` works until its `stop`. Topics and tables have to exist.

    `name` is for people and logs. `catalog` stands in for the built-in agent and the graphs that
    settings name. `replace` replaces the process by a new one, from any thread; None: it cannot.
    """
    name = name or f"{socket.gethostname()}-{os.getpid()}"
    async with AsyncExitStack() as stack:
        outside = await _outside(settings, stack)
        if catalog is None:
            catalog = worker_catalog(settings, await stack.enter_async_context(model_of(settings)))
        turns = _turns(settings, outside, catalog, name)
        inbox = await stack.enter_async_context(_inbox(settings, name))
        intake = _intake(settings, outside, turns, inbox, catalog)
        loop_watch = LoopWatch(
            block_timeout_s=settings.graph_block_timeout_s,
            block_max_s=settings.loop_block_max_s,
            replace=replace,
        )
        stopping = Stopping(settings.drain_timeout_s)
        worker = Worker(
            standing=turns.standing,
            stopping=stopping,
            roster=turns.roster,
            pump=turns.pump,
            tenure=_tenure(settings, turns),
            intake=intake,
            watches=_watches(settings, outside, turns, loop_watch, stopping),
            upkeep=_upkeep(settings, outside, turns, intake),
        )
        watch_worker(
            turns.metrics, worker, turns.pump, intake, pace=turns.pace, loop_watch=loop_watch
        )
        if settings.worker_health_port:
            port = health_port(
                settings.worker_health_host,
                settings.worker_health_port,
                ready=worker.not_ready,
                metrics=turns.metrics,
            )
            await stack.enter_async_context(port)
        yield worker


@dataclass(frozen=True, slots=True)
class _Outside:
    """What a worker reaches outside of its process.

    `wire` is the codec of topics, `relearn` learns new schemas where there is a registry. `topics`
    are those that it reads and writes, by name.
    """

    wire: Codec
    relearn: Callable[[], Awaitable[None]] | None
    topics: dict[str, TopicState]
    ledger: Ledger
    letters: Letters
    saver: FencedSaver
    signals: Signals

    @property
    def partitions(self) -> dict[str, int]:
        """How many partitions each topic has."""
        return {topic: state.partitions for topic, state in self.topics.items()}


async def _outside(settings: Settings, stack: AsyncExitStack) -> _Outside:
    wire, relearn = await _codec(settings, stack)
    topics = await _topics(settings)
    dsn, size_max = settings.database_url.get_secret_value(), settings.pool_size_max
    timeout_s = settings.statement_timeout_s
    pool = await stack.enter_async_context(
        ledger_pool(dsn, size_max=size_max, statement_timeout_s=timeout_s)
    )
    reads = await stack.enter_async_context(
        saver_pool(dsn, size_max=size_max, statement_timeout_s=timeout_s)
    )
    commits = await stack.enter_async_context(
        commit_pool(dsn, size_max=size_max, statement_timeout_s=timeout_s)
    )
    return _Outside(
        wire,
        relearn,
        topics,
        Ledger(pool),
        Letters(pool),
        FencedSaver(reads, commits),
        Signals(pool),
    )


@dataclass(frozen=True, slots=True)
class _Turns:
    """What runs turns and publishes them, and what holds it back."""

    standing: Standing
    hearing: Hearing
    pace: Pace
    pump: Pump
    results: Results
    unclaimed: Unclaimed
    roster: Roster
    metrics: WorkerMetrics


def _turns(settings: Settings, outside: _Outside, catalog: Catalog, name: str) -> _Turns:
    hearing = Hearing(settings.ack_stall_s)
    standing = Standing(name, hearing)
    pace = Pace(turns_max=settings.turns_max, target_s=settings.loop_lag_target_ms / 1000)
    pump = Pump(
        pump_producer(settings.kafka_bootstrap, tuple(outside.topics), client_id=f"pump-{name}"),
        tick_s=settings.tick_ms / 1000,
        gate=standing.held,
    )
    results = Results(
        pump,
        settings.topics,
        outside.partitions,
        wire=outside.wire,
        json_tenants=settings.json_result_tenants,
    )
    outlets = Outlets(pump, results, settings.topics.events, wire=outside.wire, store=Codec())
    metrics = WorkerMetrics()
    bench = Bench(
        pump=pump,
        wire=outside.wire,
        saver=outside.saver,
        outlets=outlets,
        catalog=catalog,
        events_topic=settings.topics.events,
        name=name,
        metrics=metrics,
        turn_timeout_s=settings.turn_timeout_s,
        step_timeout_s=settings.step_timeout_s,
        recursion_limit_max=settings.recursion_limit_max,
        events_max=settings.turn_events_max,
        topics=settings.topics,
    )
    unclaimed = Unclaimed(outside.ledger, outlets)
    roster = Roster(
        standing,
        outside.ledger,
        outside.signals,
        unclaimed,
        slots=Slots(pace, standing.works),
        attempt=partial(TurnAttempt, bench=bench),
    )
    return _Turns(standing, hearing, pace, pump, results, unclaimed, roster, metrics)


def _intake(
    settings: Settings, outside: _Outside, turns: _Turns, inbox: Inbox, catalog: Catalog
) -> Intake:
    rules = Rules(
        wire=outside.wire,
        store=Codec(),
        graphs=catalog,
        partitions=outside.partitions[settings.topics.events],
        limits=settings.command_limits,
    )
    reader = RecordReader(
        rules,
        tenant_of=settings.topics.tenant_of,
        topic_ids={topic: str(outside.topics[topic].topic_id) for topic in _inputs(settings)},
        relearn=outside.relearn,
    )
    letters = settings.topics.dead_letters
    return Intake(
        inbox,
        outside.ledger,
        turns.roster,
        positions=Positions(inbox, outside.ledger, settings.open_turns_max),
        reader=reader,
        letters=DeadLetters(
            turns.pump, turns.results, letters, outside.partitions[letters], wire=outside.wire
        ),
    )


def _tenure(settings: Settings, turns: _Turns) -> Tenure:
    pump, hearing = turns.pump, turns.hearing

    def open_lease(worker: UUID, on_change: Callable[[LeaseState], None]) -> Lease:
        return Lease(
            settings.direct_url,
            worker,
            turns.standing.name,
            ttl_s=settings.lease_ttl_s,
            renew_every_s=min(RENEW_EVERY_S, settings.lease_ttl_s / 3),
            excuse_s=settings.loop_block_max_s,
            silent_s=lambda: pump.silent_s() if hearing.steady else None,
            on_change=on_change,
        )

    return Tenure(turns.standing, open_lease, turns.roster, pump)


def _watches(
    settings: Settings,
    outside: _Outside,
    turns: _Turns,
    loop_watch: LoopWatch,
    stopping: Stopping,
) -> tuple[Loop, ...]:
    """Return what tells whether this worker may work."""
    standing, hearing, pump, roster = turns.standing, turns.hearing, turns.pump, turns.roster
    return (
        Beats(standing, hearing, pump, loop_watch=loop_watch, pace=turns.pace, roster=roster),
        Probe(pump, hearing, outside.ledger, roster),
        MemoryGuard(_memory_limit(settings), stopping, roster),
    )


def _upkeep(
    settings: Settings, outside: _Outside, turns: _Turns, intake: Intake
) -> tuple[Loop, ...]:
    """Return what looks after turns and threads that no admission and no finish leads on."""
    ledger, roster = outside.ledger, turns.roster
    return (
        WakeUps(settings.direct_url, roster, intake),
        Polls(
            roster=roster,
            reclaim=Reclaim(ledger, roster),
            unclaimed=turns.unclaimed,
            ledger=ledger,
            signals=outside.signals,
            requeue=Requeues(turns.pump, outside.letters, outside.partitions).look,
            standing=turns.standing,
        ),
        Purge(
            ledger,
            partial(_settings_of_topics, settings),
            after=timedelta(days=settings.purge_after_days),
            forgot=turns.metrics.forgot,
        ),
    )


async def _codec(
    settings: Settings, stack: AsyncExitStack
) -> tuple[Codec, Callable[[], Awaitable[None]] | None]:
    """Return the codec of topics, and what learns new schemas where there is a registry."""
    if not settings.schema_registry_url:
        return Codec(), None
    registry = await stack.enter_async_context(open_registry(settings.schema_registry_url))
    ids = await registry.register()
    await registry.load()
    return Codec(ids=ids, writers=registry.writers), registry.load


def _inputs(settings: Settings) -> tuple[str, ...]:
    return settings.topics.inputs(settings.tenants)


async def _topics(settings: Settings) -> dict[str, TopicState]:
    """Return the topics that a worker reads and writes; raises where one does not exist."""
    topics = settings.topics
    results = tuple(topics.results_of(tenant) for tenant in settings.tenants)
    names = (topics.events, topics.dead_letters, *results, *_inputs(settings))
    async with TopicAdmin(settings.kafka_bootstrap) as admin:
        found = await admin.describe(names)
    if missing := sorted(set(names) - found.keys()):
        raise ConfigurationError(
            f"topics that do not exist: {', '.join(missing)} (`turnstream topics create`)"
        )
    return found


def _inbox(settings: Settings, name: str) -> Inbox:
    return Inbox(
        settings.kafka_bootstrap,
        settings.consumer_group,
        _inputs(settings),
        client_id=name,
        batch_bytes_max=settings.batch_bytes_max,
    )


def _memory_limit(settings: Settings) -> int:
    """Return the worker's limit in bytes, 0 for none; raises where no worker fits into it."""
    limit, held = memory_limit(settings.worker_memory_max_mib), resident_bytes()
    if held < limit:
        return limit
    if settings.worker_memory_max_mib:
        raise ConfigurationError(
            f"worker_memory_max_mib is {limit >> 20}, but a worker without turns holds"
            f" {held >> 20} MiB: set more, or 0"
        )
    return 0


async def _settings_of_topics(settings: Settings) -> list[dict[str, str]]:
    """Return the settings of the topics that the ledger has to outlast."""
    topics = settings.topics
    results = (topics.results_of(tenant) for tenant in settings.tenants)
    names = (*_inputs(settings), *results, topics.dead_letters)
    async with TopicAdmin(settings.kafka_bootstrap) as admin:
        return [topic.config for topic in (await admin.describe(names)).values()]
