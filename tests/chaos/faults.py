"""What a fault is, and what it may use of the stage that it strikes.

A *stage* is one set of topics, one database, some workers, an edge and a scripted model. One story
(a run of the campaign) is played on a stage at a time. Several stages stand side by side on the
same servers (Kafka, Postgres), so each fault says what it harms:

- `scope = "stage"`: this stage alone (its processes, its links, its model, its topics, its
  database). Other stories go on beside it.
- `scope = "servers"`: what all stages share (a broker, Postgres). The campaign plays no other story
  meanwhile, and checks a story struck by it like any other.

The campaign calls, once a story and fault:

    await fault.strike(stage)      # returns when the harm is done (killed, cut, frozen, …)
    …                              # the story goes on for `fault.lasts_s`
    await fault.heal(stage)        # returns when what was harmed serves again; safe without strike

`heal` is always called, also when the story has failed: after it the next story finds the stage as
if nothing had happened. A worker that was killed need not be replaced by the fault: the stage keeps
its number of workers by itself. All chance comes from `stage.random`, so that a seed repeats.
A fault that finds nothing to strike raises `NothingToStrikeError`; that counts as no hit.

Faults are found by name in `FAULTS`; a module of `tests/chaos/parts` registers its own:

    @fault
    class CutPostgres: name = "cut-postgres"; scope = "stage"; lasts_s = 1.0; …

Servers with more to harm than a plain local stack (three brokers, proxies between the parts) are
opened by `parts/servers.py::open_servers`, which yields `Servers`; stages get their addresses from
it, one pair for each process, so that any link can be cut alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path
    from random import Random

    from turnstream.deploy.local.machine import Ports
    from turnstream.deploy.local.scripted.server import ScriptedServer
    from turnstream.streams.app.settings import Settings

Scope = Literal["stage", "servers"]


class NothingToStrikeError(Exception):
    """There is nothing now that this fault could harm."""


class Process(Protocol):
    """A worker or an edge of a stage."""

    name: str
    """Unique on its stage and over its whole life, such as `w7` or `e1`."""
    pid: int
    log: Path
    meant_to_end: bool
    """Whether somebody killed it, or told it to end."""

    @property
    def alive(self) -> bool:
        """Whether it runs (a stopped one does, a zombie does not)."""
        ...

    def kill(self) -> None:
        """Kill -9; nothing happens to one that is dead."""
        ...

    def terminate(self) -> None:
        """SIGTERM: a worker hands over, an edge closes its sockets."""
        ...

    def freeze(self) -> None:
        """SIGSTOP."""
        ...

    def thaw(self) -> None:
        """SIGCONT; nothing happens to one that runs or is dead."""
        ...

    async def ready_or_ended(self, timeout_s: float = 60.0) -> None:
        """Wait until `/readyz` says so, or another fault has ended it."""
        ...


class Servers(Protocol):
    """Kafka and Postgres, which all stages share, and the links of each process to them."""

    def kafka_for(self, process: str) -> str:
        """Return the bootstrap address to give to this process (`<stage>/<name>`)."""
        ...

    def database_for(self, process: str) -> str:
        """Return the database URL, without a database's name, to give to this process."""
        ...

    kafka: str
    """The bootstrap address that no fault cuts: for the campaign's own reader and checks."""
    database: str
    """An administrator's database URL that no fault cuts."""
    session_ms: int
    """The shortest session of a consumer group that the broker allows; 0: its default."""
    supports: frozenset[str]
    """Names of faults that these servers can bear; a campaign draws no others."""
    ports: Ports
    """Of the servers, their links and all stages: none that an outgoing connection could have."""


class Stage(Protocol):
    """What a fault sees of the stage it strikes."""

    name: str
    random: Random
    """The story's own; the only source of chance."""
    folder: Path
    settings: Settings
    """As the campaign itself uses them: addresses that no fault cuts."""
    servers: Any
    """What `open_servers` yielded: a `Servers`, and whatever more a fault of its module needs."""
    model: ScriptedServer
    """In the campaign's own process and loop; workers reach it by `model_url`."""

    @property
    def workers(self) -> Sequence[Process]:
        """Those that run now, the oldest first."""
        ...

    @property
    def edges(self) -> Sequence[Process]:
        """Those that run now."""
        ...

    async def busy_worker(self) -> Process | None:
        """Return a worker that owns a thread of this story now, None if none does."""
        ...

    @property
    def threads(self) -> Sequence[str]:
        """Ids of the threads of this story, tenant `default`."""
        ...

    def arm(self, point: str, thread: str, action: str, count: int = 1) -> None:
        """Let the next worker that is at a point on a thread for the `count`-th time do `action`.

        Points are those of `points.py`; actions `kill`, `freeze`, `term`, `block:<seconds>` (of the
        event loop).
        """
        ...

    async def hit(self, point: str, thread: str, timeout_s: float) -> bool:
        """Wait until an armed point was reached; False if it was not in this time."""
        ...

    async def until(self, condition: Callable[[], Any], what: str, timeout_s: float = 30.0) -> Any:
        """Wait until a condition (which may be a coroutine function) holds; return its value."""
        ...


class Fault(Protocol):
    """One kind of harm; see the module for when its methods are called."""

    name: str
    scope: Scope
    lasts_s: float
    """Seconds between strike and heal; 0 for what heals by itself."""

    async def strike(self, stage: Stage) -> None:
        """Do the harm; raises `NothingToStrikeError`."""
        ...

    async def heal(self, stage: Stage) -> None:
        """Undo it and wait until what was harmed serves again."""
        ...


FAULTS: dict[str, Callable[[], Fault]] = {}


def fault(kind: type[Any]) -> type[Any]:
    """Register a fault's class under its `name`; it is made anew for each story."""
    if kind.name in FAULTS:
        raise ValueError(f"two faults are named {kind.name}")
    FAULTS[kind.name] = kind
    return kind
