"""Workers forget what is long over, and never what a topic could still bring back."""

from __future__ import annotations

import asyncio

import pytest

from turnstream.streams.worker import purge

AGE = """
UPDATE turns SET created_at = created_at - make_interval(days => $1),
                 closed_at = closed_at - make_interval(days => $1)
"""


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(purge, "FIRST_AFTER_S", 0.1)
    monkeypatch.setattr(purge, "EVERY_S", 0.1)
    monkeypatch.setattr(purge, "BATCH_MAX", 2)


async def closed_turns(scene) -> None:
    for number in range(5):
        turn = await scene.start(f"t{number}", "tokens=2")
        await scene.closed(turn)


async def test_old_turns_leave_postgres_and_their_threads_go_on(scene, often) -> None:
    async with scene.worker() as one, scene.worker():
        await closed_turns(scene)
        await scene.db.execute(AGE, 36)
        await asyncio.sleep(1)  # several looks of both
        assert await scene.db.fetchval("SELECT count(*) FROM turns") == 5
        await scene.db.execute(AGE, 2)
        async with asyncio.timeout(60):
            while await scene.db.fetchval("SELECT count(*) FROM turns"):
                await asyncio.sleep(0.02)
        assert not one.not_ready()
        turn = await scene.start("t0", "tokens=2")
        assert (await scene.closed(turn))["outcome"]


async def test_a_topic_that_is_kept_longer_puts_it_off(scene) -> None:
    from aiokafka.admin import AIOKafkaAdminClient
    from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

    looks: list[object] = []
    admin = AIOKafkaAdminClient(bootstrap_servers=scene.settings.kafka_bootstrap)
    await admin.start()
    longer = {"retention.ms": str(60 * 86_400_000)}
    topic = scene.topics.turns_of("acme")
    await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, longer)])
    await admin.close()
    async with scene.worker() as worker:
        await closed_turns(scene)
        await scene.db.execute(AGE, 60)
        looks.append(await worker._upkeep[-1].look())
        await scene.db.execute(AGE, 8)
        looks.append(await worker._upkeep[-1].look())
    assert looks == [{}, {"turns": 5}]
