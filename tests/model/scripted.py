"""A schedule that is too rare to be drawn often.

An attempt loses its thread before its records arrive. They land behind all that the next attempt
said and committed, and a reader begins there. A third attempt then ends the turn. The `keep` of its
start names positions that the void attempt used as well: only `base` shows the reader that it has
missed something.
"""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, TypeVar

from tests.model.attempt import Attempt
from tests.model.invariants import broken
from tests.model.moves import moves_of
from tests.model.rows import Start
from tests.model.tasks import Spec
from tests.model.world import World

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.model.process import Process

_T = TypeVar("_T")


class Script(World):
    """A world in which nothing is drawn: the schedule is told, move by move."""

    def pick(self, options: Sequence[_T]) -> _T:
        """Choose the middle one: one event a task."""
        return options[len(options) // 2]

    def chance(self, probability: float) -> bool:
        """Take what is likely."""
        return probability > 0.5

    def until(self, goal: Callable[[], object], *kinds: str, of: Process | None = None) -> None:
        """Let such moves happen, of this process or of none, until the goal is reached."""
        while not goal():
            fits = [move for move in moves_of(self) if move.kind in kinds]
            fits = [move for move in fits if of is None or move.process in (of, None)]
            fits[0].do()
            self.settle()

    def owner_but(self, *others: Attempt) -> Attempt | None:
        """Return the attempt that holds the thread, unless it is one of these."""
        owner = self.ledger.owner
        return owner if isinstance(owner, Attempt) and owner not in others else None


def void_start_before_a_late_reader() -> dict[str, str]:
    """Play the schedule; return what does not hold."""
    world = Script({"t0": [[Spec(), Spec()]]}, [(0, Start("t0"))], Random(0), faults=9)
    take = ("send", "intake", "run", "claim", "reap")
    world.until(world.owner_but, *take)
    first = world.owner_but()
    assert first is not None
    world.until(lambda: len(first.queue) == 3, "run", of=first)
    world.until(lambda: first.lease_over, "lease ends", of=first)
    world.until(lambda: world.owner_but(first), "reap", "claim")
    second = world.owner_but(first)
    assert second is not None
    world.until(lambda: second.n == 2 and not second.queue, "run", "land", of=second)
    world.until(lambda: world.ledger.pending, "run", of=second)
    world.until(lambda: not second.threads, "crash", of=second)
    world.until(lambda: not first.queue, "land", of=first)
    world.until(lambda: world.owner_but(first, second), "reap", "claim")
    world.until(lambda: world.ledger.turns["t0"].closed, "land", "run")
    return broken(world)
