"""Start a turn with the typed client: checked fields, Avro on the wire, results matched for you.

A command that became a dead letter has a result with the code `dead_letter`. The client returns it,
unless the turn's own result, which follows a requeue, has arrived before `result` is called.

python typed_client.py 127.0.0.1:9092 "What is 6 * 7?"
"""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING

from turnstream.schemas.topics import Topics
from turnstream.streams.client import TurnClient

if TYPE_CHECKING:
    from turnstream.schemas.results import TurnResult


async def ask(
    bootstrap: str, text: str, *, prefix: str = "", thread_id: str = "demo"
) -> TurnResult:
    """Run one turn and return its result."""
    async with TurnClient(bootstrap, tenant="default", topics=Topics(prefix)) as client:
        return await client.run(thread_id, text, correlation_id="order-4711", timeout_s=60)


if __name__ == "__main__":
    found = asyncio.run(ask(sys.argv[1], sys.argv[2]))
    sys.stdout.write(f"{found.status}: {found.text or found.message}\n")
