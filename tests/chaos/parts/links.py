"""Links: TCP connections that can be cut, ended, reset, stalled, delayed, and made half open.

They lead through one process of ours (`relay.py`). toxiproxy, the known tool, was tried first:
where it holds data back for a reader that has died meanwhile, which is what this campaign does all
the time, its 2.12 does not come back from the call that lets them go (over 5 s, with the proxy's
lock held), and it needs a Go toolchain. The price of our own is that bytes pass through Python.
"""

from __future__ import annotations

import contextlib
import json
import socket
import sys
from pathlib import Path
from typing import Any, Self

from tests.chaos.parts.server import Launcher, Server
from turnstream.deploy.local import machine
from turnstream.deploy.local.part import Part

_PROGRAM = Path(__file__).with_name("relay.py")
_ANSWER_TIMEOUT_S = 10.0


class Link:
    """One listening port and where it leads; connections through it are harmed together.

    Ways: `up` is what clients send, `down` what they get.
    """

    def __init__(self, relay: RelayProcess, name: str, port: int, upstream: str) -> None:
        self._relay, self._name, self.port, self._upstream = relay, name, port, upstream

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def cut(self) -> None:
        """End all connections and refuse new ones."""
        self._do("cut")

    def end(self) -> None:
        """End the connections there are; new ones are taken."""
        self._do("end")

    def reset(self) -> None:
        """End them by RST."""
        self._do("reset")

    def stall(self, *ways: str) -> None:
        """Hold all data back, as a pulled cable does; nothing is lost when it is healed.

        A stalled link takes new connections.
        """
        self._do("hold", ways=ways or ("up", "down"))

    def delay(self, seconds: float, jitter_s: float = 0.0, *ways: str) -> None:
        """Hold each piece of data back for so long."""
        ways = ways or ("up", "down")
        self._do("delay", ways=ways, seconds=seconds, jitter_s=jitter_s)

    def swallow(self, *ways: str) -> None:
        """Drop all data: half open where only one way is given. Healing it ends the connections."""
        self._do("swallow", ways=ways or ("up", "down"))

    def lead_to(self, upstream: str) -> None:
        """Lead somewhere else (`host:port`) from now on; ends the connections there are."""
        self._do("lead", upstream=upstream)

    def lead_back(self) -> None:
        """Lead where it led at first."""
        self.lead_to(self._upstream)

    def heal(self) -> None:
        """Undo all but `lead_to`; does nothing to a link that is well."""
        self._do("heal")

    def _do(self, what: str, **more: Any) -> None:
        self._relay.ask({"do": what, "link": self._name, **more})


class RelayProcess:
    """The running relay; an asynchronous context manager. Its calls block for a millisecond."""

    def __init__(self, folder: Path, launcher: Launcher, ports: machine.Ports) -> None:
        self._folder, self._launcher, self._ports = folder, launcher, ports
        self._port = ports.take()

    async def __aenter__(self) -> Self:
        part = Part(
            name="relay",
            argv=(sys.executable, str(_PROGRAM), f"--port={self._port}"),
            log=self._folder / "relay.log",
            env=machine.environment(),
            ready=self._answers,
        )
        self._server = Server(part, self._launcher)
        await self._server.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._server.kill()

    def link(self, name: str, upstream: str, port: int = 0) -> Link:
        """Make a link to `host:port`, on a port of its own choice if none is given."""
        port = port or self._ports.take()
        self.ask({"do": "open", "link": name, "port": port, "upstream": upstream})
        return Link(self, name, port, upstream)

    def ask(self, asked: dict[str, Any]) -> None:
        """Have something done; raises `OSError` when it is refused."""
        address = ("127.0.0.1", self._port)
        with contextlib.closing(socket.create_connection(address, _ANSWER_TIMEOUT_S)) as control:
            control.sendall(json.dumps(asked).encode() + b"\n")
            with control.makefile() as answers:
                answer = json.loads(answers.readline() or '{"error": "it has ended"}')
        if "error" in answer:
            raise OSError(f"the relay cannot {asked}: {answer['error']}")

    def _answers(self) -> bool:
        with contextlib.closing(socket.create_connection(("127.0.0.1", self._port), 1)):
            return True
