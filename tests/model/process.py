"""Processes of the model: generators that stop wherever another process may come in between."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from tests.model.admission import admit, close_ended
from tests.model.ledger import Fenced
from tests.model.records import LIFE, ended

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.model.world import World
    from turnstream.schemas.records.events import Event

_R = TypeVar("_R")
Condition: TypeAlias = Callable[[], bool]
Moves: TypeAlias = Generator[Condition | None, None, _R]
"""A move ends at each yield; the next one may begin once the condition holds."""


def in_flight() -> bool:
    """Wait for a transaction that was sent: to stop its task does not take it back."""
    return True


class Thread:
    """One of a process's concurrent courses; `path` is the task's that it runs."""

    def __init__(self, moves: Moves[None], path: str = "") -> None:
        self.moves = moves
        self.path = path
        self.condition: Condition | None = None
        self.stopped = False

    def may_move(self) -> bool:
        """Tell whether its condition holds."""
        return self.condition is None or self.condition()


class Process:
    """What has a producer of its own: records land as sent, at any later time, or no more."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.ledger = world.ledger
        self.queue: list[tuple[int, Event]] = []
        self.sent = 0
        self.threads: list[Thread] = []
        self.pace = self.network_pace = 1.0

    def start(self, moves: Moves[None]) -> None:
        """Join the world with a main course."""
        self.main = Thread(moves)
        self.threads = [self.main]
        self.world.processes.append(self)

    def move(self, thread: Thread) -> None:
        """Let one course go on to its next yield."""
        try:
            thread.condition = next(thread.moves)
            over = thread.stopped and thread.condition is not in_flight
        except StopIteration:
            over = True
        except Fenced:
            self.threads, over = [], False
        if over and thread in self.threads:
            self.threads.remove(thread)

    def publish(self, record: Event) -> None:
        """Hand a record to the producer."""
        self.sent += 1
        self.queue.append((self.sent, record))

    def acked(self) -> Condition:
        """Return the condition that everything sent so far has landed."""
        mark = self.sent
        return lambda: not self.queue or self.queue[0][0] > mark

    def end_unclaimed(self, turns: Iterable[str]) -> Moves[None]:
        """Publish turns that ended unclaimed, then close them (A5).

        Turns, outcomes and the timeline are read in one transaction.
        """
        timeline = self.ledger.timeline
        outcomes = {name: self.ledger.turns[name].outcome for name in turns}
        yield None
        for name, outcome in outcomes.items():
            if outcome is not None:
                self.publish(ended(name, timeline * LIFE, outcome))
        yield self.acked()
        for name in outcomes:
            close_ended(self.ledger, name, timeline, len(self.world.log))


class Sweep(Process):
    """Publishes again what ended unclaimed and is not closed (A5)."""

    def run(self) -> Moves[None]:
        """Sweep once."""
        yield from self.end_unclaimed(self.world.unclaimed())


class Intake(Process):
    """Reads one input partition from the ledger's position on; two of them may overlap (A1)."""

    def __init__(self, world: World, partition: int) -> None:
        super().__init__(world)
        self.partition = partition
        self.at = self.ledger.positions[partition]
        self.timeline = self.ledger.timeline

    def run(self) -> Moves[None]:
        """Take in what arrives."""
        ledger, partition = self.ledger, self.partition
        commands = self.world.input[partition]
        while True:
            yield lambda: self.at < len(commands) or ledger.timeline != self.timeline
            if ledger.timeline != self.timeline:
                self.at, self.timeline = ledger.positions[partition], ledger.timeline
                continue
            batch = commands[self.at : self.at + self.world.pick((1, 1, 2))]
            yield None
            worker = self.world.worker_with_room()
            admitted = admit(ledger, partition, self.at, batch, worker)
            if admitted is None:
                self.at = ledger.positions[partition]
                continue
            self.at += len(batch)
            if admitted.claim is not None and worker is not None:
                worker.begin(admitted.claim)
            if admitted.decided:
                yield from self.end_unclaimed(admitted.decided)
