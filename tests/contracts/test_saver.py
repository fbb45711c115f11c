"""LangGraph's own conformance suite over our saver, optional capabilities included."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from langgraph.checkpoint.conformance import checkpointer_test, validate
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from psycopg_pool import AsyncConnectionPool

from turnstream.connectors.postgres.checkpoints.commit_pool import commit_pool
from turnstream.connectors.postgres.checkpoints.saver import FencedSaver

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

pytestmark = pytest.mark.promises("P13")


async def test_passes_the_conformance_suite(database: str) -> None:
    async with (
        AsyncConnectionPool(
            database,
            min_size=2,
            max_size=4,
            kwargs={"autocommit": True, "prepare_threshold": 0},
            open=False,
        ) as pool,
        commit_pool(database) as commits,
    ):

        @checkpointer_test(name="FencedSaver")
        async def fenced() -> AsyncGenerator[FencedSaver]:
            saver = FencedSaver(pool, commits)
            await AsyncPostgresSaver.setup(saver)
            yield saver

        report = await validate(fenced)

    passed = {name: result.passed for name, result in report.results.items()}
    assert passed == dict.fromkeys(
        (
            "put",
            "put_writes",
            "get_tuple",
            "list",
            "delete_thread",
            "delete_for_runs",
            "copy_thread",
            "prune",
        ),
        True,
    ), [result.failures for result in report.results.values() if result.failures]
