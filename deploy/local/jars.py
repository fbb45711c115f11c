"""Fetch the jars that a lock names into the cache; refuse a jar with another SHA-256.

Reads `kafka.lock` of this package (`group:artifact:version sha256`, one a line) and the cache
folder; writes the cache. With everything cached no network is used. jgo only warns of a wrong
checksum and trusts what it finds cached, which is why every jar is hashed here before each use.

`python -m turnstream.deploy.local.jars` resolves the dependencies anew and prints a lock.
"""

from __future__ import annotations

import fcntl
import hashlib
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from turnstream.schemas.errors import StackError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LOCKED = ("org.apache.kafka:kafka_2.13:4.1.1", "org.slf4j:slf4j-simple:1.7.36")
_FETCHES_MAX = 8
_ATTEMPTS_MAX = 3


@dataclass(frozen=True, slots=True)
class Jar:
    """One line of a lock."""

    group: str
    artifact: str
    version: str
    sha256: str

    def path(self, repository: Path) -> Path:
        """Return where a Maven repository keeps it."""
        folder = repository.joinpath(*self.group.split("."), self.artifact, self.version)
        return folder / f"{self.artifact}-{self.version}.jar"

    def intact(self, repository: Path) -> bool:
        """Return whether the repository holds the jar with the right content."""
        try:
            with self.path(repository).open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest() == self.sha256
        except FileNotFoundError:
            return False


def read_lock(text: str | None = None) -> tuple[Jar, ...]:
    """Parse a lock, Kafka's by default; keeps its order, which is that of the class path."""
    if text is None:
        text = files(__package__).joinpath("kafka.lock").read_text()
    jars = []
    for line in text.splitlines():
        if line.strip() and not line.startswith("#"):
            coordinate, sha256 = line.split()
            group, artifact, version = coordinate.split(":")
            jars.append(Jar(group, artifact, version, sha256))
    return tuple(jars)


def fetch_jars(
    jars: tuple[Jar, ...], cache: Path, *, progress: Callable[[int, int], None] = lambda *_: None
) -> list[Path]:
    """Return the jars' paths, all verified; fetches what is missing or damaged.

    `progress` gets (jars at hand, jars in all). Safe beside other processes on the same cache.
    Raises `StackError` when a jar cannot be had or keeps coming with another content.
    """
    repository = cache / "jars"
    repository.mkdir(parents=True, exist_ok=True)
    with _exclusive(cache / "jars.lock"), ThreadPoolExecutor(_FETCHES_MAX) as pool:
        intact = pool.map(lambda jar: jar.intact(repository), jars)
        missing = [jar for jar, good in zip(jars, intact, strict=True) if not good]
        progress(len(jars) - len(missing), len(jars))
        fetches = [pool.submit(_fetch, jar, repository) for jar in missing]
        for done, fetch in enumerate(as_completed(fetches), start=1):
            if error := fetch.exception():
                pool.shutdown(cancel_futures=True)
                raise StackError(str(error)) from error
            progress(len(jars) - len(missing) + done, len(jars))
    return [jar.path(repository) for jar in jars]


def _fetch(jar: Jar, repository: Path) -> None:
    context = _maven(repository)
    cause = ""
    for _ in range(_ATTEMPTS_MAX):
        jar.path(repository).unlink(missing_ok=True)
        artifact = context.project(jar.group, jar.artifact).at_version(jar.version).artifact()
        try:
            artifact.resolve()
        except Exception as error:  # noqa: BLE001 - jgo raises what its HTTP library raises
            cause = str(error)
        else:
            if jar.intact(repository):
                return
            cause = "its SHA-256 is not the one in the lock"
    jar.path(repository).unlink(missing_ok=True)
    raise StackError(f"cannot fetch {jar.artifact} {jar.version}: {cause}")


def _maven(repository: Path) -> Any:
    try:
        from jgo.maven import MavenContext, PythonResolver  # noqa: PLC0415 - an optional package
    except ImportError as error:
        raise StackError(
            "fetching Kafka needs the package jgo: `pip install 'turnstream[local]'`"
        ) from error
    return MavenContext(resolver=PythonResolver(), repo_cache=repository, timeout=30)


@contextmanager
def _exclusive(path: Path) -> Iterator[None]:
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def make_lock() -> str:
    """Resolve `LOCKED` and everything below them; return the text of a lock."""
    from jgo.maven import Dependency  # noqa: PLC0415 - an optional package

    lines = ["# made by: python -m turnstream.deploy.local.jars > deploy/local/kafka.lock"]
    with tempfile.TemporaryDirectory() as folder:
        context = _maven(Path(folder))
        seen: dict[tuple[str, str], str] = {}
        for coordinate in LOCKED:
            group, name, version = coordinate.split(":")
            artifact = context.project(group, name).at_version(version).artifact()
            inputs, below = context.resolver.resolve([Dependency(artifact, scope="compile")])
            for dependency in (*inputs, *below):
                key = (dependency.groupId, dependency.artifactId)
                if key in seen:
                    continue
                content = dependency.artifact.resolve().read_bytes()
                seen[key] = hashlib.sha256(content).hexdigest()
                lines.append(f"{':'.join(key)}:{dependency.version} {seen[key]}")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(make_lock())
