"""Topics on a real broker: creation, drift, ids."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from uuid import UUID

import pytest
from aiokafka.admin import AIOKafkaAdminClient

from turnstream.connectors.kafka.admin import TopicAdmin, TopicDrift, TopicState, drifts_of
from turnstream.schemas.errors import ConfigurationError, KafkaUnavailableError
from turnstream.schemas.topics import Topic, Topics

DURABILITY = {"min.insync.replicas": "2", "unclean.leader.election.enable": "false"}


@pytest.fixture
async def admin(kafka: str, prefix: str):
    async with TopicAdmin(kafka) as admin:
        yield admin
        await _delete(kafka, [name for name in await admin.describe() if name.startswith(prefix)])


async def _delete(kafka: str, names: list[str]) -> None:
    client = AIOKafkaAdminClient(bootstrap_servers=kafka)
    await client.start()
    try:
        if names:
            await client.delete_topics(names)
    finally:
        await client.close()


async def test_creates_what_is_wanted(admin: TopicAdmin, prefix: str):
    wanted = Topics(prefix).all(("default", "acme"), partitions=3)

    created = await admin.create(wanted)

    assert sorted(created) == sorted(topic.name for topic in wanted)
    assert await admin.check(wanted) == []
    found = await admin.describe(topic.name for topic in wanted)
    events = found[f"{prefix}turn-events"]
    assert (events.partitions, events.replication, events.led) == (3, 1, True)
    assert events.config["retention.ms"] == str(7 * 86_400_000)
    assert events.config["max.message.bytes"] == str(4 << 20)
    assert found[f"{prefix}usage"].config["cleanup.policy"] == "compact"


async def test_creation_is_repeatable_and_safe_from_several_processes(
    kafka: str, admin: TopicAdmin, prefix: str
):
    wanted = Topics(prefix).all(("default",), partitions=2)

    async def one() -> list[str]:
        async with TopicAdmin(kafka) as mine:
            return await mine.create(wanted)

    by_each = await asyncio.gather(*(one() for _ in range(4)))

    assert sorted(name for names in by_each for name in names) == sorted(
        topic.name for topic in wanted
    )
    assert await admin.create(wanted) == []


async def test_reports_drift_and_changes_nothing(admin: TopicAdmin, prefix: str):
    made = Topic(f"{prefix}a", 2, {"cleanup.policy": "compact", "max.message.bytes": "1000000"})
    await admin.create([made])
    wanted = replace(
        made, partitions=3, config={"cleanup.policy": "delete", "max.message.bytes": "2000000"}
    )
    missing = Topic(f"{prefix}b", 1, {})

    drifts = await admin.check([wanted, missing])

    assert drifts == [
        TopicDrift(made.name, "partitions", "3", "2", breaks=False),
        TopicDrift(made.name, "cleanup.policy", "delete", "compact", breaks=True),
        TopicDrift(made.name, "max.message.bytes", "2000000", "1000000", breaks=True),
        TopicDrift(missing.name, "exists", "yes", "no", breaks=True),
    ]
    assert await admin.create([wanted]) == []
    assert await admin.check([made]) == []


async def test_a_recreated_topic_has_another_id(kafka: str, admin: TopicAdmin, prefix: str):
    topic = Topic(f"{prefix}again", 1, {})
    await admin.create([topic])
    first = (await admin.ids([topic.name]))[topic.name]
    await _delete(kafka, [topic.name])

    async with asyncio.timeout(60):
        while topic.name in await admin.ids([topic.name]):
            await asyncio.sleep(0.05)
    await admin.create([topic])

    assert (await admin.ids([topic.name]))[topic.name] not in {first, UUID(int=0)}


async def test_refused_names_and_settings_say_which(admin: TopicAdmin, prefix: str):
    with pytest.raises(ConfigurationError, match="cannot be a topic's name"):
        await admin.create([Topic(f"{prefix}with space", 1, {})])
    with pytest.raises(ConfigurationError, match=f"{prefix}odd cannot be created"):
        await admin.create([Topic(f"{prefix}odd", 1, {"cleanup.policy": "sometimes"})])


async def test_no_broker_is_a_retryable_error():
    with pytest.raises(KafkaUnavailableError) as caught:
        async with TopicAdmin("127.0.0.1:1", request_timeout_ms=500):
            pass
    assert caught.value.retryable


def test_several_brokers_want_three_replicas_and_two_in_sync():
    topic = Topic("t", 1, {})
    config = {"min.insync.replicas": "1", "unclean.leader.election.enable": "true"}
    state = TopicState("t", UUID(int=1), 1, replication=1, led=True, config=config)

    drifts = drifts_of(topic, state, 3, DURABILITY)

    assert [(d.key, d.wanted, d.found, d.breaks) for d in drifts] == [
        ("replication.factor", "3", "1", False),
        ("min.insync.replicas", "2", "1", False),
        ("unclean.leader.election.enable", "false", "true", True),
    ]


def state_of(topic: Topic, replication: int = 3, **config: str) -> TopicState:
    given = {key.replace("_", "."): value for key, value in config.items()}
    found = {**DURABILITY, **topic.config, **given}
    return TopicState(topic.name, UUID(int=1), topic.partitions, replication, True, found)


@pytest.mark.parametrize(
    ("config", "key", "breaks"),
    [
        ({"cleanup_policy": "compact"}, "cleanup.policy", True),
        ({"cleanup_policy": "compact,delete"}, "cleanup.policy", True),
        ({"max_message_bytes": "1000"}, "max.message.bytes", True),
        ({"min_insync_replicas": "4"}, "min.insync.replicas", True),
        ({"min_insync_replicas": "1"}, "min.insync.replicas", False),
        ({"segment_bytes": "1048576"}, "segment.bytes", True),
        ({"retention_ms": "60000"}, "retention.ms", True),
        ({"retention_ms": "0"}, "retention.ms", True),
        ({"retention_ms": "7200000"}, "retention.ms", False),
        ({"retention_bytes": "1048576"}, "retention.bytes", False),
        ({"unclean_leader_election_enable": "true"}, "unclean.leader.election.enable", True),
    ],
)
def test_settings_that_cannot_work_are_named(config: dict[str, str], key: str, breaks: bool):
    (events,) = (t for t in Topics("").all(("default",), 4) if t.name == "turn-events")
    (drift,) = drifts_of(events, state_of(events, **config), 3, DURABILITY)
    assert (drift.name, drift.key, drift.breaks) == ("turn-events", key, breaks)
    assert drift.found in str(drift)


@pytest.mark.parametrize("codec", ["producer", "uncompressed", "gzip", "snappy", "lz4", "zstd"])
def test_any_compression_works(codec: str):
    for topic in Topics("").all(("default",), 4):
        assert drifts_of(topic, state_of(topic, compression_type=codec), 3, DURABILITY) == []


async def test_settings_that_cannot_work_are_found_on_a_broker(
    kafka: str, admin: TopicAdmin, prefix: str
):
    wanted = Topics(prefix).all(("default",), partitions=1)
    flaws = {"turn-events": {"segment.bytes": str(1 << 20)}, "turns": {"retention.ms": "1000"}}
    made = [
        replace(topic, config={**topic.config, **flaws.get(topic.name.removeprefix(prefix), {})})
        for topic in wanted
    ]
    await admin.create(made)
    found = {(d.name.removeprefix(prefix), d.key): d.breaks for d in await admin.check(wanted)}
    assert found == {("turn-events", "segment.bytes"): True, ("turns", "retention.ms"): True}
