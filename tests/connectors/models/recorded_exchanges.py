"""Recorded exchanges with model servers, and a server that plays them.

A file of `dialects/` holds the exchanges of one kind of server. `## name` begins one; `> 200 type`
is its status and content type, further lines with `>` are headers, or say how the body is sent
(`lines cr`, `lines crlf bom`, `ends bare`: without a last line end, `ends cut`: the connection is
dropped). Then comes the body, and `<` with what the client is to make of it.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from types import TracebackType

FOLDER = Path(__file__).parent / "dialects"


@dataclass
class Exchange:
    """What a server answers, and what is to come of it."""

    name: str
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    cut: bool = False
    expected: dict[str, Any] = field(default_factory=dict)


def exchanges() -> list[Exchange]:
    return [one for path in sorted(FOLDER.glob("*.txt")) for one in _read(path)]


def _read(path: Path) -> list[Exchange]:
    found: list[Exchange] = []
    for block in ("\n" + path.read_text()).split("\n## ")[1:]:
        name, _, rest = block.partition("\n")
        exchange = Exchange(f"{path.stem}: {name}")
        lines = rest.split("\n")
        asked: list[str] = []
        while lines[0].startswith("> "):
            asked.append(lines.pop(0)[2:])
        end = next(i for i, line in enumerate(lines) if line.startswith("< "))
        exchange.expected = json.loads(lines[end][2:])
        status, _, kind = asked[0].partition(" ")
        exchange.status, exchange.headers["content-type"] = int(status), kind
        body = "".join(f"{line}\n" for line in lines[:end]).encode()
        for words in (line.split() for line in asked[1:]):
            if words[0] == "lines":
                body = body.replace(b"\n", {"cr": b"\r", "crlf": b"\r\n"}[words[1]])
                body = b"\xef\xbb\xbf" + body if "bom" in words else body
            elif words[0] == "ends":
                exchange.cut = words[1] == "cut"
                body = body[:-1] if words[1] == "bare" else body
            else:
                exchange.headers[words[0].rstrip(":")] = words[1]
        exchange.body = body
        found.append(exchange)
    return found


class ReplayServer:
    """Plays the exchange that the last message of a request names, in pieces of `size` bytes."""

    def __init__(self, played: list[Exchange], size: int = 1 << 16) -> None:
        self.played = {exchange.name: exchange for exchange in played}
        self.size = size
        self.asked: list[str] = []
        self._server: asyncio.Server

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/v1"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            size = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
            request = json.loads(await reader.readexactly(size))
            name = request["messages"][-1]["content"]
            self.asked.append(name)
            await self._play(self.played[name], writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _play(self, exchange: Exchange, writer: asyncio.StreamWriter) -> None:
        head = {**exchange.headers, "transfer-encoding": "chunked", "connection": "close"}
        lines = "".join(f"{name}: {value}\r\n" for name, value in head.items())
        writer.write(f"HTTP/1.1 {exchange.status} X\r\n{lines}\r\n".encode())
        for at in range(0, len(exchange.body), self.size):
            piece = exchange.body[at : at + self.size]
            writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            await writer.drain()
        if not exchange.cut:
            writer.write(b"0\r\n\r\n")
        await writer.drain()
