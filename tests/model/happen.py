"""What each move does to a modelled world."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.model.attempt import Attempt
from tests.model.claims import claim
from tests.model.commits import raise_rev
from tests.model.process import Intake, Sweep
from tests.model.records import resolved
from tests.model.rows import Resume
from tests.model.world import Client

if TYPE_CHECKING:
    from tests.model.process import Process
    from tests.model.world import World


def land(world: World, process: Process) -> None:
    """Append the first record that a process has sent."""
    world.log.append(process.queue.pop(0)[1])


def crash(world: World, process: Process) -> None:
    """End a process; what it has sent may still land."""
    world.faults -= 1
    process.threads = []


def ask_back(world: World, attempt: Attempt) -> None:
    """Ask an attempt to give its thread back."""
    world.faults -= 1
    attempt.release_asked = True


def end_lease(world: World, attempt: Attempt) -> None:
    """Let an owner's lease pass."""
    world.faults -= 1
    attempt.lease_over = True


def renew(world: World, attempt: Attempt) -> None:
    """Let an owner renew its lease late; where the thread was taken, its attempt ends."""
    attempt.lease_over = False
    if world.ledger.owner is not attempt:
        attempt.threads = []


def take_over(world: World) -> None:
    """Let a worker claim from `ready`."""
    worker = Attempt(world)
    claimed = claim(world.ledger, worker)
    if claimed is not None:
        worker.begin(claimed)


def send(world: World) -> None:
    """Let a client's next command arrive."""
    partition, command = world.sends.pop(0)
    world.input[partition].append(command)


def take_in(world: World, partition: int) -> None:
    """Start an intake."""
    intake = Intake(world, partition)
    intake.start(intake.run())


def sweep(world: World) -> None:
    """Start a sweep."""
    sweep = Sweep(world)
    sweep.start(sweep.run())


def answer(world: World) -> None:
    """Let a client answer a question: mostly the open one, sometimes twice."""
    world.answers_left -= 1
    asks = world.ledger.asks
    asked = asks[0] if asks and world.chance(0.8) else world.pick(world.asked)
    command = Resume(f"r{world.answers_left}", asked)
    for _again in range(1 + world.chance(0.2)):
        world.pick(world.input).append(command)


def report(world: World) -> None:
    """Publish a thread event."""
    world.reports -= 1
    subject = world.pick("xy")
    world.loose.append(resolved(subject, raise_rev(world.ledger, subject)))


def land_loose(world: World, at: int) -> None:
    """Let a thread event land, perhaps not for the last time."""
    world.log.append(world.loose.pop(at) if world.chance(0.8) else world.loose[at])


def restore(world: World) -> None:
    """Put the database back."""
    world.restores -= 1
    world.restored = True
    world.ledger.restore(world.pick((1, 2, 3, 5)))


def connect(world: World) -> None:
    """Let a client begin to read here, with what the ledger tells its edge (R1, R2)."""
    world.clients_left -= 1
    ledger = world.ledger
    said = {record.turn_id for record in world.log}
    over = [
        name
        for name, turn in ledger.turns.items()
        if turn.outcome and not turn.started and name in said
    ]
    world.clients.append(Client(len(world.log), ledger.epoch, ledger.timeline, tuple(over)))
