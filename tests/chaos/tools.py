"""Tools whose effects can be counted: each writes a row of a table of its own when it acts."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import asyncpg
from pydantic import BaseModel

from tests.chaos import points
from turnstream.graph.ports import ToolCallContext
from turnstream.graph.tools.function import FunctionTool

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

EFFECTS = """
CREATE TABLE IF NOT EXISTS chaos_effects (
  thread_key text NOT NULL,
  turn_id    text NOT NULL,
  what       text NOT NULL,
  key        text NOT NULL,
  at         timestamptz NOT NULL DEFAULT clock_timestamp()
)
"""


class What(BaseModel):
    """Arguments of the counting tools."""

    what: str


@asynccontextmanager
async def opened(database: str) -> AsyncIterator[list[FunctionTool[What]]]:
    """Yield the tools, over a pool that opens a connection when one is first needed."""
    async with asyncpg.create_pool(database, min_size=0, max_size=2) as pool:

        async def mark(arguments: What, context: ToolCallContext) -> str:
            """Make a mark; a second call makes a second one."""
            await pool.execute(
                "INSERT INTO chaos_effects VALUES ($1, $2, $3, $4)",
                context.thread_key,
                str(context.turn_id),
                arguments.what,
                context.idempotency_key,
            )
            points.reach("tool", context.thread_key)
            return f"{arguments.what}: marked"

        yield [FunctionTool(mark, What)]
