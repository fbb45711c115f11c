"""From when on the ledger may forget."""

from __future__ import annotations

from datetime import timedelta

import pytest

from turnstream.schemas.topics import DAY_MS, Topics
from turnstream.streams.app.settings import Settings
from turnstream.streams.worker.purge import horizon

DAY = timedelta(days=1)


def topic(days: float, **more: str) -> dict[str, str]:
    return {"retention.ms": str(int(days * DAY_MS)), "cleanup.policy": "delete"} | more


def test_the_default_is_what_our_own_topics_need() -> None:
    ours = [one.config for one in Topics().all(("default",), 1) if "retention.ms" in one.config]
    assert horizon(DAY, ours) == timedelta(days=Settings.model_fields["purge_after_days"].default)


@pytest.mark.parametrize(
    ("topics", "days"),
    [
        ([], 10),
        ([topic(1)], 10),
        ([topic(7), topic(1)], 14),
        ([topic(7, **{"segment.ms": str(30 * DAY_MS)})], 37),
        ([topic(7, **{"segment.ms": "1"})], 14),
        ([topic(7), topic(-1)], None),
        ([{"retention.ms": "-1"}], None),
        ([{"retention.ms": str(2**63 - 1)}], None),
        ([topic(1, **{"cleanup.policy": "compact"})], None),
        ([{}], None),
    ],
)
def test_nothing_is_forgotten_that_a_topic_still_has(
    topics: list[dict[str, str]], days: float | None
) -> None:
    assert horizon(10 * DAY, topics) == (None if days is None else days * DAY)
