"""Tools that count their own effects: each writes a row into Postgres when it acts.

Three kinds: `charge` honours its idempotency key (a second call does nothing and returns what the
first did), `mark` does not, `post` does not but can be asked whether it acted (`find_post`).

How often something happened is `SELECT count(*) … GROUP BY key`: once for `charge`; for the others
once at most, and if the transcript says `tool_indeterminate` of the call, then none or one.

The table (`EFFECTS`) is in the database that COUNTING_DATABASE names. Each of `strikes` is awaited
with (place, thread_key) when a tool has `begun` and when it has `acted`: a worker can be struck
there. With COUNTING_PLAIN=1 the tools are plain functions, in threads that no cancel stops.
`agent_tools()` are the tools of the built-in agent; `effects.py` has the same for LangGraph's own
tool node.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
from pydantic import BaseModel

from turnstream.graph.ports.tools import Effects, ToolCallContext
from turnstream.graph.tools.function import FunctionTool

TENANT = "default"
EFFECTS = """
CREATE TABLE IF NOT EXISTS chaos_effects (
  thread_key text NOT NULL,
  turn_id    text NOT NULL,
  what       text NOT NULL,
  key        text NOT NULL,
  at         timestamptz NOT NULL DEFAULT clock_timestamp(),
  tool       text NOT NULL DEFAULT 'mark'
);
CREATE UNIQUE INDEX IF NOT EXISTS chaos_effects_once ON chaos_effects (key) WHERE tool = 'charge';
"""
_ACT = """
INSERT INTO chaos_effects (thread_key, turn_id, what, key, tool) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT DO NOTHING
"""
_FIND = "SELECT what FROM chaos_effects WHERE key = $1 AND tool = $2"


AWAY = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # a connection that ends in the middle of a message
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,  # it shuts down, or starts, or ended us
    asyncpg.ReadOnlySQLTransactionError,  # it is still in recovery
)
"""What a statement raises while the server is away."""

PLAIN = os.environ.get("COUNTING_PLAIN") == "1"
strikes: list[Callable[[str, str], Awaitable[None]]] = []


async def at(place: str, thread_key: str) -> None:
    """Be struck, if somebody wants that here."""
    for strike in strikes:
        await strike(place, thread_key)


async def act(tool: str, what: str, key: str, thread_key: str, turn_id: str) -> str:
    """Take effect, and return the call's result: that of the first call, for `charge`."""
    await at("begun", thread_key)
    again = bool(KINDS[tool].honours_key)
    await _query(_ACT, thread_key, turn_id, what, key, tool, again=again)
    await at("acted", thread_key)
    return await find(tool, key) or ""


async def find(tool: str, key: str) -> str | None:
    """Return the result of the call with this key, if it acted."""
    rows = await _query(_FIND, key, tool, again=True)
    return f"{rows[0]['what']}: {tool} done" if rows else None


async def find_post(_arguments: Any, key: str) -> str | None:
    """Return the result of a `post` with this key, if it acted."""
    return await find("post", key)


async def _query(sql: str, *values: Any, again: bool) -> list[Any]:
    """Ask in a connection of its own, again while the database is away: tools have no fence.

    `again`: also where the answer was lost, so that it may have been done.
    """
    while True:
        try:
            connection = await asyncpg.connect(os.environ["COUNTING_DATABASE"], timeout=5)
        except AWAY:
            await asyncio.sleep(0.1)
            continue
        try:
            return await connection.fetch(sql, *values)
        except AWAY:
            if not again:
                raise
        finally:
            connection.terminate()


KINDS: dict[str, Effects] = {
    "charge": Effects(honours_key=True),
    "mark": Effects(),
    "post": Effects(find=find_post),
}


class What(BaseModel):
    """Arguments of the counting tools."""

    what: str


def agent_tools(timeout_s: float = 30.0) -> list[FunctionTool[What]]:
    """Return the three tools for the built-in agent."""

    def made(name: str) -> FunctionTool[What]:
        async def call(arguments: What, context: ToolCallContext) -> str:
            return await act(
                name,
                arguments.what,
                context.idempotency_key,
                context.thread_key,
                str(context.turn_id),
            )

        def plain(arguments: What, context: ToolCallContext) -> str:
            return asyncio.run(call(arguments, context))

        return FunctionTool(
            plain if PLAIN else call,
            What,
            name=name,
            description=f"Do a thing: {name}.",
            timeout_s=timeout_s,
            effects=KINDS[name],
        )

    return [made(name) for name in KINDS]
