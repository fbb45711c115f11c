"""What may happen next in a modelled world, and how often it is chosen."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from tests.model import happen
from tests.model.attempt import Attempt
from tests.model.claims import reap
from tests.model.process import Intake
from tests.model.records import brief, short
from tests.model.world import ATTEMPTS_AT_ONCE
from turnstream.schemas.records.events import Event

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.model.process import Process
    from tests.model.world import World


class Move(NamedTuple):
    """One of the things that may happen now, and how often it is chosen.

    `process` is what it happens to, `what` the course that goes on or the record that lands.
    """

    weight: float
    kind: str
    do: Callable[[], None]
    process: Process | None = None
    what: str | Event = ""

    def __str__(self) -> str:
        name = type(self.process).__name__.lower() if self.process else ""
        if isinstance(self.process, Attempt):
            name += f" {short(self.process.epoch)}"
        what = brief(self.what) if isinstance(self.what, Event) else self.what
        return " ".join(word for word in (self.kind, name, what) if word)


def moves_of(world: World) -> list[Move]:
    """Return everything that may happen now."""
    found = [move for process in world.processes for move in _of_process(world, process)]
    return [*found, *_of_owner(world), *_of_ledger(world), *_of_clients(world)]


def _of_process(world: World, process: Process) -> Iterator[Move]:
    attempt = process if isinstance(process, Attempt) else None
    late = attempt is not None and attempt.lease_over
    # past its lease a worker holds: only what slips in between a look and an act still happens
    pace = process.pace / 20 if late else process.pace
    for thread in process.threads:
        if thread.may_move():
            move = partial(process.move, thread)
            yield Move(pace, "run", move, process, thread.path or "main")
    if process.queue:
        land = partial(happen.land, world, process)
        yield Move(process.network_pace, "land", land, process, process.queue[0][1])
        if not process.threads:
            yield Move(process.network_pace / 4, "lose", process.queue.clear, process)
    if process.threads and world.faults:
        yield Move(0.04, "crash", partial(happen.crash, world, process), process)
        if attempt is not None and not attempt.release_asked:
            yield Move(0.03, "release", partial(happen.ask_back, world, attempt), process)
    if process.threads and attempt is not None and attempt.lease_over:
        yield Move(0.1, "renew", partial(happen.renew, world, attempt), process)


def _of_owner(world: World) -> Iterator[Move]:
    owner = world.ledger.owner
    if isinstance(owner, Attempt):
        if not owner.threads or owner.lease_over:
            yield Move(0.15, "reap", partial(reap, world.ledger), owner)
        elif world.faults:
            yield Move(0.08, "lease ends", partial(happen.end_lease, world, owner), owner)
    if world.ledger.ready and len(world.attempts()) <= ATTEMPTS_AT_ONCE:
        yield Move(0.7, "claim", partial(happen.take_over, world))


def _of_ledger(world: World) -> Iterator[Move]:
    intakes = [p.partition for p in world.processes if isinstance(p, Intake) and p.threads]
    for partition, commands in enumerate(world.input):
        running = intakes.count(partition)
        if not running and world.ledger.positions[partition] < len(commands):
            yield Move(0.8, "intake", partial(happen.take_in, world, partition))
        elif running == 1 and world.faults and commands:
            yield Move(0.03, "intake", partial(happen.take_in, world, partition))
    if world.unclaimed():
        yield Move(0.05, "sweep", partial(happen.sweep, world))
    if world.restores and len(world.ledger.snapshots or ()) > 2:
        yield Move(0.03, "restore", partial(happen.restore, world))


def _of_clients(world: World) -> Iterator[Move]:
    ledger = world.ledger
    for at in range(len(world.loose)):
        yield Move(0.2, "land", partial(happen.land_loose, world, at), what=world.loose[at])
    if world.sends:
        yield Move(0.15, "send", partial(happen.send, world))
    if world.answers_left and world.asked:
        yield Move(0.3 if ledger.asks else 0.02, "answer", partial(happen.answer, world))
    if world.reports:
        yield Move(0.1, "report", partial(happen.report, world))
    if world.clients_left and world.log and not (ledger.head or ledger.asks):
        yield Move(0.1, "connect", partial(happen.connect, world))
