"""What a seed draws: the graphs of a few turns, what clients send, and how much goes wrong."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from tests.model.rows import Cancel, Command, Start
from tests.model.tasks import Spec
from tests.model.world import World

PACES = (0.0, 0.02, 0.3, 1.0, 1.0, 5.0)
"""How fast a process or its network goes on; 0: frozen until another pace is drawn."""

POLICIES = ("enqueue", "enqueue", "reject", "interrupt", "rollback")


@dataclass(frozen=True)
class Shares:
    """How many tasks hold a nested graph, ask the user, or call a tool."""

    nested: float
    asks: float
    tools: float


def world_of(seed: int) -> World:
    """Return the world of this seed, before anything has happened in it."""
    rng = Random(seed)
    shares = Shares(rng.choice((0, 0, 0.3, 0.7)), rng.choice((0, 0, 0.2)), rng.choice((0, 0.4)))
    partitions, turns = rng.choice((1, 1, 2)), rng.choice((1, 1, 2, 3, 4))
    calm = rng.random() < 0.5  # plain turns only: the faults then hit the attempts
    plans: dict[str, list[list[Spec]]] = {}
    sends: list[tuple[int, Command]] = []
    for turn in (f"t{i}" for i in range(turns)):
        plans[turn] = [_step(rng, shares) for _ in range(rng.choice((1, 1, 2)))]
        start = Start(turn) if calm else Start(turn, rng.choice(POLICIES), rng.random() > 0.07)
        copies = 1 if calm or rng.random() > 0.2 else 2
        sends += [(rng.randrange(partitions), start) for _ in range(copies)]
        if rng.random() < 0.25:
            cancel = Cancel(turn, rng.choice(("cancel", "cancel", "rollback")))
            sends.insert(rng.randrange(len(sends) + 1), (rng.randrange(partitions), cancel))
    world = World(
        plans,
        sends,
        rng,
        partitions=partitions,
        faults=rng.choice((0, 1, 2, 3, 4, 6)),
        restores=rng.choice((1, 2)) if rng.random() < 0.1 else 0,
    )
    world.fail_rate = rng.choice((0, 0, 0.1))
    world.tool_honours_key = rng.random() < 0.5
    world.answers_left = rng.choice((0, 1, 2)) if shares.asks else 0
    world.reports = rng.choice((0, 0, 0, 3))
    world.room_rate = rng.choice((0.2, 0.8, 1))
    world.clients_left = rng.choice((0, 0, 2))
    return world


def _step(rng: Random, shares: Shares) -> list[Spec]:
    return [_task(rng, shares) for _ in range(rng.choice((1, 2, 2, 3)))]


def _task(rng: Random, shares: Shares) -> Spec:
    if rng.random() >= shares.nested:
        return _leaf(rng, shares)
    steps = rng.choice((1, 2))
    return Spec(
        inner=[[_leaf(rng, shares) for _ in range(rng.choice((1, 1, 2)))] for _ in range(steps)]
    )


def _leaf(rng: Random, shares: Shares) -> Spec:
    return Spec(tool=rng.random() < shares.tools, asks=rng.random() < shares.asks)
