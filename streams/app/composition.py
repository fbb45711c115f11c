"""The composition root: the only place that knows every adapter.

Each `open_*` is an async context manager over an `AsyncExitStack`: what it opened is closed in
reverse order. Parts can be passed by keyword, so that tests put a twin in place.
"""

from __future__ import annotations

import os
import socket
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, cast

import psycopg
from psycopg_pool import PoolTimeout

from turnstream.connectors.avro import Codec
from turnstream.connectors.avro_tokens import TokenDecoder
from turnstream.connectors.kafka.admin import TopicAdmin
from turnstream.connectors.kafka.read.inbox import Inbox
from turnstream.connectors.kafka.read.scan import LogScan
from turnstream.connectors.kafka.read.tail import Tail, TailOptions
from turnstream.connectors.kafka.write.commands import KafkaCommands
from turnstream.connectors.kafka.write.producer import pump_producer
from turnstream.connectors.kafka.write.pump import Pump
from turnstream.connectors.models.openai.client import ModelLimits, OpenAIModel
from turnstream.connectors.models.routes import RoutedModel
from turnstream.connectors.postgres.checkpoints.commit_pool import CommitPool, commit_pool
from turnstream.connectors.postgres.checkpoints.saver import FencedSaver
from turnstream.connectors.postgres.ledger.lease import RENEW_EVERY_S, Lease
from turnstream.connectors.postgres.ledger.ledger import Ledger
from turnstream.connectors.postgres.ledger.signals import Signals, listen
from turnstream.connectors.postgres.pools import ledger_pool, saver_pool
from turnstream.connectors.postgres.stores.letters import Letters
from turnstream.connectors.postgres.stores.places import Incarnations, LedgerPlaces
from turnstream.connectors.postgres.stores.threads import Threads
from turnstream.connectors.postgres.stores.usage import UsageStore
from turnstream.connectors.registry import open_codec, open_registry
from turnstream.graph.agent.builder import agent_entry
from turnstream.graph.agent.retries import RetrySettings
from turnstream.graph.agent.state import AgentSettings
from turnstream.graph.langgraph.catalog import Catalog
from turnstream.graph.langgraph.reading import GraphReader
from turnstream.graph.tools import built_in_tools
from turnstream.schemas.errors import ConfigurationError
from turnstream.streams.edge.ask.pressure import Pressure
from turnstream.streams.edge.ask.submit import Submit
from turnstream.streams.edge.deliver.fanout import SocketLimits, Sockets
from turnstream.streams.edge.deliver.subscription import Snapshots
from turnstream.streams.edge.follow.directory import LedgerDirectory
from turnstream.streams.edge.follow.feed import Feed
from turnstream.streams.edge.server.arrivals import arrivals_of
from turnstream.streams.edge.server.context import EdgeContext
from turnstream.streams.edge.server.limits import RequestRate
from turnstream.streams.edge.server.process import Edge, Readiness, authenticator_of
from turnstream.streams.edge.server.serving import EdgeServer
from turnstream.streams.edge.surfaces.states import States
from turnstream.streams.letters.dead_letters import DeadLetters
from turnstream.streams.process.health import health_port
from turnstream.streams.process.loop_watch import LoopWatch
from turnstream.streams.process.memory import memory_limit, resident_bytes
from turnstream.streams.process.pace import Pace
from turnstream.streams.worker.admission import Rules
from turnstream.streams.worker.attempt import Bench, TurnAttempt
from turnstream.streams.worker.hearing import Hearing
from turnstream.streams.worker.intake import Intake
from turnstream.streams.worker.metrics import WorkerMetrics, watch_worker
from turnstream.streams.worker.outlets import Outlets
from turnstream.streams.worker.purge import Purge
from turnstream.streams.worker.worker import Worker

REQUEUES_AT_ONCE_MAX = 50

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    import asyncpg

    from turnstream.graph.langgraph.catalog import GraphEntry
    from turnstream.graph.ports.model import ModelClient
    from turnstream.streams.app.settings import Settings
    from turnstream.streams.edge.deliver.subscription import ReadsState
    from turnstream.streams.edge.follow.feed import Directory
    from turnstream.streams.edge.surfaces.states import Graph


@asynccontextmanager
async def open_usage_store(settings: Settings) -> AsyncIterator[UsageStore]:
    """Open the store of the usage processor: two connections, one for counting."""
    async with ledger_pool(
        settings.database_url.get_secret_value(),
        size_max=2,
        statement_timeout_s=settings.statement_timeout_s,
    ) as pool:
        yield UsageStore(pool)


@asynccontextmanager
async def open_edge(
    settings: Settings, *, state: ReadsState | None = None, directory: Directory | None = None
) -> AsyncIterator[Edge]:
    """Open an edge: it listens; `run` serves. Topics and tables have to exist."""
    topics, auth = settings.topics, authenticator_of(settings)
    codec = await open_codec(settings.schema_registry_url)
    dsn, timeout_s = settings.database_url.get_secret_value(), settings.statement_timeout_s
    async with AsyncExitStack() as stack:
        pool = await stack.enter_async_context(
            ledger_pool(dsn, size_max=settings.pool_size_max, statement_timeout_s=timeout_s)
        )
        saver_connections = await stack.enter_async_context(
            saver_pool(dsn, size_max=settings.pool_size_max, statement_timeout_s=timeout_s)
        )
        log = await stack.enter_async_context(
            KafkaCommands(settings.kafka_bootstrap, topics.turns, codec)
        )
        ledger, threads = Ledger(pool), Threads(pool)
        saver = FencedSaver(saver_connections, CommitPool(pool))
        catalog = edge_catalog(settings)
        reading = state or _states(catalog, saver, ledger)
        tail = Tail(
            settings.kafka_bootstrap, topics.events, Incarnations(pool), _tail_options(settings)
        )
        places = directory or LedgerDirectory(LedgerPlaces(ledger))
        feed = Feed(tail, places, TokenDecoder(codec))
        sockets = Sockets(feed, Snapshots(reading), _socket_limits(settings))
        pressure = Pressure(tail, ledger, settings.open_turns_max)
        context = EdgeContext(
            settings=settings,
            feed=feed,
            submit=Submit(log, feed, pressure, settings.edge_start_wait_s, settings.command_limits),
            auth=auth,
            sockets=sockets,
            arrivals=arrivals_of(settings),
            state=reading,
            exists=threads.exists,
            ledger=ledger,
            catalog=catalog,
            saver=saver,
            threads=threads,
            letters=_dead_letters(settings, pool, codec, catalog),
            tail=tail,
            pressure=pressure,
            rate=RequestRate(settings.edge_requests_per_s_max),
            ready=Readiness(tail, ledger, pressure, sockets, auth).checks,
        )
        yield Edge(context, tail, pressure, EdgeServer(context, settings))


@asynccontextmanager
async def open_dead_letters(settings: Settings) -> AsyncIterator[DeadLetters]:
    """Open the dead letters, to look at and to decide about."""
    codec = await open_codec(settings.schema_registry_url)
    async with ledger_pool(
        settings.database_url.get_secret_value(),
        size_max=2,
        statement_timeout_s=settings.statement_timeout_s,
    ) as pool:
        yield _dead_letters(settings, pool, codec, Catalog())


def _dead_letters(
    settings: Settings, pool: asyncpg.Pool, wire: Codec, graphs: Catalog
) -> DeadLetters:
    topics = settings.topics
    rules = Rules(
        wire=wire,
        store=Codec(),
        graphs=graphs,
        partitions=settings.partitions,
        limits=settings.command_limits,
    )
    return DeadLetters(
        lambda: LogScan(settings.kafka_bootstrap, batch_bytes_max=settings.batch_bytes_max),
        topics.dead_letters,
        Letters(pool),
        rules,
        tenant_of=topics.tenant_of,
        inputs=topics.inputs(settings.tenants),
    )


class _NoModel:
    """Stands where the agent has its model in a process that runs no turns."""

    def __getattr__(self, name: str) -> object:
        raise ConfigurationError(f"the edge runs no turns: {name}")


def edge_catalog(settings: Settings) -> Catalog:
    """Return the graphs, to read states with."""
    return _catalog(settings, agent_entry(cast("ModelClient", _NoModel())))


def _catalog(settings: Settings, built_in: GraphEntry) -> Catalog:
    catalog = Catalog()
    if settings.langgraph_json is not None:
        catalog.load(settings.langgraph_json)
    catalog.add_built_in(built_in)
    return catalog


def _states(catalog: Catalog, saver: FencedSaver, ledger: Ledger) -> States:
    unavailable = (psycopg.OperationalError, PoolTimeout, OSError)

    def graph_of(name: str) -> Graph | None:
        entry = catalog.get(name)
        return None if entry is None else GraphReader(entry, saver, unavailable)

    async def graph_name(key: str) -> str | None:
        turns = [turn for turn in await ledger.turns_of(key, 10) if not turn.rolled_back]
        # a turn of a graph that nobody has was refused, and left no state
        known = [turn.graph for turn in turns if turn.graph in catalog]
        if found := known or [turn.graph for turn in turns]:
            return found[0]
        thread = await ledger.thread(key)  # its turns may have been purged, its state has not
        return thread.graph if thread is not None else None

    async def open_questions(key: str) -> tuple[str, ...]:
        thread = await ledger.thread(key)
        return thread.interrupts if thread is not None else ()

    return States(graph_of, graph_name, unavailable, open_questions)


def _tail_options(settings: Settings) -> TailOptions:
    return TailOptions(
        ring_bytes_max=settings.ring_bytes_max,
        warm_s=settings.edge_warm_s,
        fetch_max_wait_ms=settings.edge_fetch_wait_ms,
        fetch_min_bytes=settings.edge_fetch_bytes_min,
        batch_bytes_max=settings.batch_bytes_max,
    )


def _socket_limits(settings: Settings) -> SocketLimits:
    return SocketLimits(
        sockets_per_user_max=settings.edge_sockets_per_user_max,
        subscriptions_per_socket_max=settings.edge_subscriptions_per_socket_max,
        buffer_bytes_max=settings.edge_buffer_bytes_max,
        stall_timeout_s=settings.edge_stall_timeout_s,
        heartbeat_s=settings.edge_heartbeat_s,
    )


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
    topics, direct = settings.topics, settings.direct_url
    dsn, timeout_s = settings.database_url.get_secret_value(), settings.statement_timeout_s
    name = name or f"{socket.gethostname()}-{os.getpid()}"
    inputs = topics.inputs(settings.tenants)
    outputs = (
        topics.events,
        topics.dead_letters,
        *(topics.results_of(tenant) for tenant in settings.tenants),
    )
    async with AsyncExitStack() as stack:
        store, wire, relearn = Codec(), Codec(), None
        if settings.schema_registry_url:
            registry = await stack.enter_async_context(open_registry(settings.schema_registry_url))
            ids, relearn = await registry.register(), registry.load
            await relearn()
            wire = Codec(ids=ids, writers=registry.writers)
        async with TopicAdmin(settings.kafka_bootstrap) as admin:
            found = await admin.describe((*inputs, *outputs))
        if missing := sorted({*inputs, *outputs} - found.keys()):
            raise ConfigurationError(
                f"topics that do not exist: {', '.join(missing)} (`turnstream topics create`)"
            )
        pool = await stack.enter_async_context(
            ledger_pool(dsn, size_max=settings.pool_size_max, statement_timeout_s=timeout_s)
        )
        saver_connections = await stack.enter_async_context(
            saver_pool(dsn, size_max=settings.pool_size_max, statement_timeout_s=timeout_s)
        )
        commits = await stack.enter_async_context(
            commit_pool(dsn, size_max=settings.pool_size_max, statement_timeout_s=timeout_s)
        )
        if catalog is None:
            catalog = worker_catalog(settings, await stack.enter_async_context(_model(settings)))
        ledger, signals, metrics = Ledger(pool), Signals(pool), WorkerMetrics()
        letters = Letters(pool)
        pump = Pump(
            pump_producer(settings.kafka_bootstrap, (*outputs, *inputs), client_id=f"pump-{name}"),
            tick_s=settings.tick_ms / 1000,
            gate=lambda: worker.may_produce(),  # noqa: PLW0108  it is made further down
        )
        hearing = Hearing(settings.ack_stall_s)
        outlets = Outlets(
            pump,
            topics,
            {topic: found[topic].partitions for topic in (*outputs, *inputs)},
            wire=wire,
            store=store,
            json_results=settings.json_result_tenants,
        )
        bench = Bench(
            pump=pump,
            wire=wire,
            saver=FencedSaver(saver_connections, commits),
            outlets=outlets,
            catalog=catalog,
            events_topic=topics.events,
            name=name,
            metrics=metrics,
            turn_timeout_s=settings.turn_timeout_s,
            step_timeout_s=settings.step_timeout_s,
            recursion_limit_max=settings.recursion_limit_max,
            events_max=settings.turn_events_max,
            topics=topics,
        )
        worker = Worker(
            name=name,
            pump=pump,
            ledger=ledger,
            outlets=outlets,
            signals=signals,
            open_lease=lambda worker_id, on_change: Lease(
                direct,
                worker_id,
                name,
                ttl_s=settings.lease_ttl_s,
                renew_every_s=min(RENEW_EVERY_S, settings.lease_ttl_s / 3),
                excuse_s=settings.loop_block_max_s,
                silent_s=lambda: pump.silent_s() if hearing.steady else None,
                on_change=on_change,
            ),
            listen=lambda listeners, on_connect: listen(direct, listeners, on_connect=on_connect),
            attempt=lambda claim, release: TurnAttempt(claim, bench, release),
            requeue=lambda: outlets.requeue(letters, REQUEUES_AT_ONCE_MAX),
            purge=Purge(
                ledger,
                lambda: _settings_of_topics(settings),
                after=timedelta(days=settings.purge_after_days),
                forgot=metrics.forgot,
            ),
            pace=Pace(turns_max=settings.turns_max, target_s=settings.loop_lag_target_ms / 1000),
            memory_max_bytes=_memory_limit(settings),
            turns_max=settings.turns_max,
            hearing=hearing,
            loop_watch=LoopWatch(
                block_timeout_s=settings.graph_block_timeout_s,
                block_max_s=settings.loop_block_max_s,
                replace=replace,
            ),
            drain_timeout_s=settings.drain_timeout_s,
        )
        inbox = await stack.enter_async_context(
            Inbox(
                settings.kafka_bootstrap,
                settings.consumer_group,
                inputs,
                client_id=name,
                batch_bytes_max=settings.batch_bytes_max,
            )
        )
        rules = Rules(
            wire=wire,
            store=store,
            graphs=catalog,
            partitions=found[topics.events].partitions,
            limits=settings.command_limits,
        )
        intake = Intake(
            inbox,
            ledger,
            outlets,
            worker.roster,
            rules=rules,
            tenant_of=topics.tenant_of,
            topic_ids={topic: str(found[topic].topic_id) for topic in inputs},
            open_turns_max=settings.open_turns_max,
            relearn=relearn,
        )
        worker.take_from(intake)
        watch_worker(metrics, worker, pump, intake)
        if settings.worker_health_port:
            await stack.enter_async_context(
                health_port(
                    settings.worker_health_host,
                    settings.worker_health_port,
                    ready=worker.not_ready,
                    metrics=metrics,
                )
            )
        yield worker


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
    names = (
        *topics.inputs(settings.tenants),
        *(topics.results_of(tenant) for tenant in settings.tenants),
        topics.dead_letters,
    )
    async with TopicAdmin(settings.kafka_bootstrap) as admin:
        return [topic.config for topic in (await admin.describe(names)).values()]


def _model(settings: Settings) -> RoutedModel:
    limits = ModelLimits(
        connect_timeout_s=settings.model_connect_timeout_s,
        first_token_timeout_s=settings.model_first_token_timeout_s,
        token_gap_timeout_s=settings.model_token_gap_timeout_s,
        connections_max=2 * settings.turns_max,
    )
    key = settings.model_api_key.get_secret_value()
    default = OpenAIModel(settings.model_url, model=settings.model_name, api_key=key, limits=limits)
    routes = {
        model: OpenAIModel(url, model=model, api_key=key, limits=limits)
        for model, url in settings.model_routes.items()
    }
    return RoutedModel(default, routes)


def worker_catalog(settings: Settings, model: ModelClient) -> Catalog:
    """Return the graphs to run turns with."""
    agent = AgentSettings(
        system_prompt=settings.system_prompt,
        steps_max=settings.agent_steps_max,
        tool_timeout_s=settings.tool_timeout_s,
        retries=RetrySettings(
            tries_max=settings.model_tries_max,
            turn_retries_max=settings.model_turn_retries_max,
            backoff_s=settings.model_backoff_s,
            backoff_max_s=settings.model_backoff_max_s,
            retry_after_max_s=settings.model_retry_after_max_s,
        ),
    )
    return _catalog(settings, agent_entry(model, built_in_tools(), agent))
