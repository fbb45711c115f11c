"""A fault of the model server: for a while it answers every request by an error."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from tests.chaos.faults import fault

if TYPE_CHECKING:
    from tests.chaos.faults import Stage
    from tests.chaos.parts.links import Link

STATUSES = (429, 500, 503)


@fault
class ModelErrors:
    """Streams under way end, and new requests are refused with 429, 500 or 503."""

    name = "model-errors"
    scope = "stage"
    lasts_s = 1.5
    may_fail = True

    def __init__(self) -> None:
        self._link: Link | None = None

    async def strike(self, stage: Stage) -> None:
        """Lead the model's link to a server that refuses."""
        status = stage.random.choice(STATUSES)
        answer = f"HTTP/1.1 {status} Refused\r\nretry-after: 1\r\ncontent-length: 2\r\n\r\n{{}}"

        async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(ConnectionError):
                while await reader.read(1 << 20):
                    writer.write(answer.encode())
            writer.close()

        self._refusing = await asyncio.start_server(refuse, "127.0.0.1", 0)
        port = self._refusing.sockets[0].getsockname()[1]
        self._link = stage.servers.models[stage.name]
        await asyncio.to_thread(self._link.lead_to, f"127.0.0.1:{port}")

    async def heal(self, stage: Stage) -> None:
        """Lead it to the model again."""
        if self._link is not None:
            await asyncio.to_thread(self._link.lead_back)
            self._refusing.close()
            self._link = None
