from __future__ import annotations

import asyncio
import uuid

import pytest

from turnstream.connectors.postgres.ledger import signals as signals_module
from turnstream.connectors.postgres.ledger.signals import (
    CANCEL_CHANNEL,
    READY_CHANNEL,
    Signals,
    listen,
)


@pytest.fixture
async def ears(ledger_dsn):
    """What is heard on both channels, in order; `connected` counts connects."""
    heard: asyncio.Queue[tuple[str, str]] = asyncio.Queue()
    connected: asyncio.Queue[None] = asyncio.Queue()
    task = asyncio.create_task(
        listen(
            ledger_dsn,
            {
                CANCEL_CHANNEL: lambda text: heard.put_nowait(("cancel", text)),
                READY_CHANNEL: lambda text: heard.put_nowait(("ready", text)),
            },
            on_connect=lambda: connected.put_nowait(None),
        )
    )
    await asyncio.wait_for(connected.get(), 60)
    heard.connected = connected
    yield heard
    task.cancel()


async def test_a_wake_up_is_heard(scene, ears):
    await Signals(scene.pool).wake(CANCEL_CHANNEL, "acme/한국")
    assert await asyncio.wait_for(ears.get(), 60) == ("cancel", "acme/한국")


async def test_one_living_peer_is_meant_and_not_oneself(scene, ears, monkeypatch):
    monkeypatch.setattr(signals_module, "READY_EVERY_S", 60.0)
    me, peer, dead = await scene.worker(), await scene.worker(), await scene.worker(ttl_s=-1)
    leaving = await scene.worker()
    await scene.ledger.stop_taking(leaving)
    signals = Signals(scene.pool)
    await signals.wake_peer(me)
    await signals.wake_peer(me)  # too soon: not sent
    await signals.wake(CANCEL_CHANNEL, "end")
    assert await asyncio.wait_for(ears.get(), 60) == ("ready", str(peer))
    assert await asyncio.wait_for(ears.get(), 60) == ("cancel", "end")
    assert peer not in (dead, leaving)


async def test_a_cut_listener_comes_back_and_says_so(scene, ears):
    await scene.pool.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE application_name = 'turnstream-listener' AND datname = current_database()"
    )
    await asyncio.wait_for(ears.connected.get(), 60)
    await Signals(scene.pool).wake(READY_CHANNEL, "x")
    assert await asyncio.wait_for(ears.get(), 60) == ("ready", "x")


async def test_a_wake_up_that_cannot_be_sent_is_no_error(scene):
    signals = Signals(scene.pool)
    scene.pool.terminate()
    await signals.wake(CANCEL_CHANNEL, "x")
    await signals.wake_peer(uuid.uuid4())
