"""Searches over the model: one seeded schedule, or many."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from tests.model.draw import PACES, world_of
from tests.model.invariants import broken
from tests.model.moves import moves_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from tests.model.moves import Move
    from tests.model.world import World

MOVES_MAX = 5000


class Example(NamedTuple):
    """A schedule that breaks something."""

    seed: int
    moves: list[str]
    broken: dict[str, str]


@dataclass
class Tally:
    """What many schedules came to."""

    runs: int = 0
    violating: list[int] = field(default_factory=list)
    invariants: Counter[str] = field(default_factory=Counter)


def explore(seed: int, watch: Callable[[World, Move], None] | None = None) -> dict[str, str]:
    """Run the seed's schedule until nothing more can happen; return what does not hold.

    `watch` sees every move before it happens.
    """
    world = world_of(seed)
    rng = world.rng
    for _ in range(MOVES_MAX):
        moves = moves_of(world)
        if not moves:
            return broken(world)
        weights = [move.weight for move in moves]
        move = rng.choices(moves, weights)[0] if any(weights) else rng.choice(moves)
        if watch is not None:
            watch(world, move)
        move.do()
        world.settle()
        if world.processes and rng.random() < 0.15:
            process = rng.choice(world.processes)
            process.pace, process.network_pace = rng.choice(PACES), rng.choice(PACES)
    return {"lost": f"no end in {MOVES_MAX} moves"}


def explore_planted(
    seed: int, watch: Callable[[World, Move], None] | None = None
) -> dict[str, str]:
    """Run a schedule with an error planted: it may break the model itself."""
    try:
        return explore(seed, watch)
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        return {"model": repr(error)}


def search(seeds: Iterable[int], *, enough: int = 0, planted: bool = False) -> Tally:
    """Run the schedules of these seeds, or until `enough` of them break an invariant."""
    tally = Tally()
    for seed in seeds:
        found = explore_planted(seed) if planted else explore(seed)
        tally.runs += 1
        if found:
            tally.violating.append(seed)
            tally.invariants.update(found.keys())
            if len(tally.violating) == enough:
                break
    return tally


def shortest(seeds: Sequence[int]) -> Example:
    """Run these schedules again; return the one with the fewest moves."""
    return min((_example(seed) for seed in seeds), key=lambda example: len(example.moves))


def _example(seed: int) -> Example:
    moves: list[str] = []

    def watch(_: World, move: Move) -> None:
        moves.append(str(move))

    found = explore_planted(seed, watch)
    return Example(seed, moves, found)
