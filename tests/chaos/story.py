"""A story: some turns on some threads, and the blows that fall meanwhile. Drawn from one seed."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from random import Random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

THREADS_MAX = 3
TURNS_MAX = 5
_ALWAYS = ("admitted", "claimed", "fenced", "token", "commit", "outcome", "terminal")
_TOOL = ("tool-begun", "tool", "tool")
POINTS_OF: dict[str, tuple[str, ...]] = {
    "say": _ALWAYS,
    "tool": (*_ALWAYS, *_TOOL, "step"),
    "charge": (*_ALWAYS, *_TOOL, "step"),
    "tools": (*_ALWAYS, *_TOOL, *_TOOL, "step"),
    "effects": (*_ALWAYS, *_TOOL, "step"),
    "effects_nested": (*_ALWAYS, *_TOOL, "nested", "nested"),
    "talker": (*_ALWAYS, "step"),
    "branches": (*_ALWAYS, *("writes",) * 4, "step"),
    "nested": (*_ALWAYS, *("nested",) * 5, "step"),
    "falters": (*_ALWAYS, "step"),
    "stalls": (*_ALWAYS, "step"),
    "approval": (*_ALWAYS, "step"),
    "questions": (*_ALWAYS, *("writes",) * 3),
}
"""Kinds of turns, and the points that a worker passes with one; what is listed twice is rarer hit
otherwise, and so drawn more often."""
UNCLAIMED = ("ended",) * 4
"""The point beside them on a thread where a turn may end before anybody claims it."""

WEIGHTS = dict.fromkeys(POINTS_OF, 2) | {
    "say": 3,
    "branches": 3,
    "nested": 3,
    "questions": 1,
    "stalls": 1,
}
"""How often each kind is drawn."""

SPARES_EDGES = frozenset({"kill-worker", "kill-idle", "kill-workers"})
"""Faults without a point that leave the edge and its links alone."""

AT_POINTS = 16.0
"""How often a blow falls at a point, beside the weights of those that fall at a time."""

POLICIES = ("enqueue", "reject", "interrupt", "rollback")
EXPIRES = 0.05
"""The share of turns that expire."""

ANSWERS = ("once", "twice", "stale", "foreign", "superseded")
"""How the questions of a turn are answered: `twice` the same command comes again, `stale` another
answer comes after the first, `foreign` one to a question of nobody comes before it, `superseded`
there is none and a new turn starts instead."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One turn: on which thread, what it does, how long after the one before it is sent.

    `cancel_s`: cancelled so long after it was sent, below 0 just before; None: not. `expires_s`:
    it expires so long after it was sent.
    `by`: who sends it, a plain producer (`kafka`) or the stock SDK (`websocket`, `sse`);
    `watch-…`: a producer, and the SDK only watches.
    """

    thread: int
    kind: str
    words: int = 20
    wait_s: float = 0.0
    by: str = "kafka"
    cancel_s: float | None = None
    answer: str = "once"
    on_busy: str = "enqueue"
    expires_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Blow:
    """One fault: `kill:token` strikes at a point of a turn, others at a time.

    `turn`: index of the turn whose point it is; `count`: at its so manieth time there; `at_s`:
    after the story's beginning, for those without a point.
    """

    fault: str
    turn: int = 0
    count: int = 1
    at_s: float = 0.0

    @property
    def action(self) -> str:
        """What is done at a point: `kill`, `freeze` …; "" for a fault without one."""
        return self.fault.partition("@")[0] if "@" in self.fault else ""

    @property
    def point(self) -> str:
        """The point, "" for a fault without one."""
        return self.fault.partition("@")[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """What one run plays."""

    seed: str
    turns: tuple[Turn, ...]
    blows: tuple[Blow, ...]

    def without_turn(self, index: int) -> Story:
        """Leave a turn out, and the blows that were meant for it."""
        turns = tuple(turn for i, turn in enumerate(self.turns) if i != index)
        blows = tuple(
            replace(blow, turn=blow.turn - (blow.turn > index))
            for blow in self.blows
            if not (blow.point and blow.turn == index)
        )
        return replace(self, turns=turns, blows=blows)

    def without_blow(self, index: int) -> Story:
        """Leave a blow out."""
        return replace(self, blows=tuple(b for i, b in enumerate(self.blows) if i != index))

    def told(self) -> str:
        """The story as JSON, which `--story` plays."""
        return json.dumps(asdict(self))


def read_story(text: str) -> Story:
    """Return the story that `told` wrote."""
    given = json.loads(text)
    return Story(
        seed=given["seed"],
        turns=tuple(Turn(**turn) for turn in given["turns"]),
        blows=tuple(Blow(**blow) for blow in given["blows"]),
    )


class Teller:
    """Draws stories; `faults` are names or their beginnings (`kill@`), none: all that there are.

    `others`: faults without a point that the servers bear, by name and how often they are drawn
    beside ten that have a point.
    """

    def __init__(
        self, faults: Sequence[str] = (), others: Collection[tuple[str, int]] = ()
    ) -> None:
        self._faults = tuple(faults)
        self._others = tuple((name, weight) for name, weight in others if self._wanted(name))
        self._actions = [
            (action, weight)
            for action, weight in (("kill@", 20), ("freeze@", 2), ("block:4.5@", 1), ("term@", 2))
            if not faults or any(action[0:4] == f[0:4] and "@" in f for f in faults)
        ]

    def story(self, seed: str) -> Story:
        """Return the story of a seed."""
        random = Random(seed)
        turns = self._turns(random)
        blows = self._blows(random, turns)
        if not all(blow.point or blow.fault in SPARES_EDGES for blow in blows):
            # a client that starts a turn by an edge that dies cannot know what became of it
            turns = tuple(
                replace(turn, by=f"watch-{turn.by}") if turn.by in ("websocket", "sse") else turn
                for turn in turns
            )
        return Story(seed=seed, turns=turns, blows=blows)

    def _turns(self, random: Random) -> tuple[Turn, ...]:
        count, threads = random.randint(2, TURNS_MAX), random.randint(1, THREADS_MAX)
        kinds = list(POINTS_OF)
        turns = []
        for _ in range(count):
            kind = random.choices(kinds, list(WEIGHTS.values()))[0]
            cancel: float | None = None
            if kind in ("say", "tool") and random.random() < 0.2:
                cancel = random.choice((-1.0, 0.0, random.uniform(0.05, 0.5)))
            turns.append(
                Turn(
                    thread=random.randrange(threads),
                    kind=kind,
                    words=random.randint(10, 60),
                    wait_s=random.choice((0.0, 0.0, random.uniform(0.0, 0.3))),
                    cancel_s=cancel,
                    answer=random.choice(ANSWERS),
                    on_busy=random.choices(POLICIES, (12, 1, 1, 1))[0],
                    expires_s=random.uniform(0.0, 1.0) if random.random() < EXPIRES else None,
                )
            )
        alone = [t for t in range(threads) if sum(turn.thread == t for turn in turns) == 1]
        for index, turn in enumerate(turns):
            if turn.thread in alone and _ends_by_itself(turn):
                by = random.choice(("kafka", "kafka", "websocket", "sse"))
                turns[index] = replace(turn, by=by)
        return tuple(turns)

    def _blows(self, random: Random, turns: Sequence[Turn]) -> tuple[Blow, ...]:
        names: list[Blow] = []
        others = dict(self._others)
        for _ in range(random.choice((1, 1, 1, 2, 2, 3))):
            heavy = sum(others.values())
            if others and (not self._actions or random.random() < heavy / (heavy + AT_POINTS)):
                name = random.choices(list(others), list(others.values()))[0]
                names.append(Blow(fault=name, at_s=round(random.uniform(0.05, 1.0), 3)))
                continue
            index = random.randrange(len(turns))
            action = random.choices(*zip(*self._actions, strict=True))[0]
            passed = POINTS_OF[turns[index].kind]
            if any(_may_end_unclaimed(t) for t in turns if t.thread == turns[index].thread):
                passed += UNCLAIMED
            points = [point for point in passed if self._wanted(action + point)]
            if points:
                names.append(self._at_point(random, action, random.choice(points), index))
        return tuple(names)

    def _at_point(self, random: Random, action: str, point: str, index: int) -> Blow:
        count = random.randint(1, 12) if point == "token" else 1
        if point.startswith("tool"):
            count = random.choice((1, 1, 2))
        return Blow(fault=action + point, turn=index, count=count)

    def _wanted(self, name: str) -> bool:
        return not self._faults or any(name.startswith(fault) for fault in self._faults)


def _may_end_unclaimed(turn: Turn) -> bool:
    cancelled_before = turn.cancel_s is not None and turn.cancel_s <= 0
    return cancelled_before or turn.on_busy == "reject" or turn.expires_s is not None


def _ends_by_itself(turn: Turn) -> bool:
    return (
        turn.cancel_s is None
        and turn.expires_s is None
        and turn.kind not in ("approval", "questions")
    )
