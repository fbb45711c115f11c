"""The composition of an edge. A test may pass a twin of the state."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

import psycopg
from psycopg_pool import PoolTimeout

from turnstream.connectors.avro_tokens import TokenDecoder
from turnstream.connectors.kafka.read.tail import Tail, TailOptions
from turnstream.connectors.kafka.write.commands import KafkaCommands
from turnstream.connectors.postgres.checkpoints.commit_pool import CommitPool
from turnstream.connectors.postgres.checkpoints.saver import FencedSaver
from turnstream.connectors.postgres.ledger.ledger import Ledger
from turnstream.connectors.postgres.pools import ledger_pool, saver_pool
from turnstream.connectors.postgres.stores.places import Incarnations, LedgerPlaces
from turnstream.connectors.postgres.stores.threads import Threads
from turnstream.connectors.registry import open_codec
from turnstream.graph.langgraph.reading import GraphReader
from turnstream.streams.app.graphs import edge_catalog
from turnstream.streams.app.letters import dead_letters_of
from turnstream.streams.edge.ask.pressure import Pressure
from turnstream.streams.edge.ask.submit import Submit
from turnstream.streams.edge.deliver.fanout import SocketLimits, Sockets
from turnstream.streams.edge.deliver.snapshots import Snapshots
from turnstream.streams.edge.follow.feed import Feed
from turnstream.streams.edge.server.arrivals import arrivals_of
from turnstream.streams.edge.server.context import EdgeContext
from turnstream.streams.edge.server.limits import RequestRate
from turnstream.streams.edge.server.process import Edge, Readiness, authenticator_of
from turnstream.streams.edge.server.serving import EdgeServer
from turnstream.streams.edge.surfaces.states import States

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from turnstream.graph.langgraph.catalog import Catalog
    from turnstream.streams.app.settings import Settings
    from turnstream.streams.edge.deliver.snapshots import ReadsState
    from turnstream.streams.edge.surfaces.states import Graph


@asynccontextmanager
async def open_edge(settings: Settings, *, state: ReadsState | None = None) -> AsyncIterator[Edge]:
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
        feed = Feed(tail, LedgerPlaces(ledger), TokenDecoder(codec))
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
            letters=dead_letters_of(settings, pool, codec, catalog),
            tail=tail,
            pressure=pressure,
            rate=RequestRate(settings.edge_requests_per_s_max),
            ready=Readiness(tail, ledger, pressure, sockets, auth).checks,
        )
        yield Edge(context, tail, pressure, EdgeServer(context, settings))


def _states(catalog: Catalog, saver: FencedSaver, ledger: Ledger) -> States:
    unavailable = (psycopg.OperationalError, PoolTimeout, OSError)

    def graph_of(name: str) -> Graph | None:
        entry = catalog.get(name)
        return None if entry is None else GraphReader(entry, saver, unavailable)

    async def graph_name(key: str) -> str | None:
        turns = [turn for turn in await ledger.turns_of(key, 10) if not turn.rolled_back]
        # a turn of an unknown graph was refused, and left no state
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
