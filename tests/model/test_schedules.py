"""The model of a turn's life keeps its invariants, and none of its rules is there for nothing."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.model.moves import Move
from tests.model.planting import planted
from tests.model.plants.every import PLANTS
from tests.model.scripted import void_start_before_a_late_reader
from tests.model.search import explore, explore_planted, search
from tests.model.world import World
from turnstream.schemas.records.events import AttemptStarted, TaskRetried, TurnEnded

SCHEDULES = 2000
SEARCHED = 500
"""Schedules with an error planted, behind the one that is known to show it."""

SCRIPTED = ("base-not-compared", "start-without-base")
"""Errors that show in a schedule which is hardly ever drawn."""

WANTED = frozenset(
    {
        "crash", "lose", "reap", "renew", "release", "restore", "sweep", "connect",
        "completed", "failed", "rejected", "interrupted", "cancel", "rollback",
        "decided again", "parked", "resumed", "stale answer", "kept task", "kept nested graph",
        "retried", "retried with keep", "unclaimed end", "indeterminate tool",
    }
)  # fmt: skip
"""What has to have happened: schedules that never get there prove nothing."""


def test_no_schedule_breaks_an_invariant() -> None:
    seen: Counter[str] = Counter()
    worlds: list[World] = []

    def watch(world: World, move: Move) -> None:
        worlds[:] = [world]
        kinds.add(move.kind)

    for seed in range(SCHEDULES):
        kinds: set[str] = set()
        assert explore(seed, watch) == {}, f"python -m tests.model --schedules 1 --seed {seed}"
        seen.update(kinds | happened(worlds[0]))
    assert set(seen) >= WANTED, WANTED - set(seen)


def happened(world: World) -> set[str]:
    """Return what came up in a finished schedule."""
    ledger, log = world.ledger, world.log
    starts = [record for record in log if isinstance(record, AttemptStarted)]
    retries = [record for record in log if isinstance(record, TaskRetried)]
    turns = ledger.turns.values()
    found = {turn.outcome.kind for turn in turns if turn.outcome}
    kept = [entry.path for start in starts for entry in start.keep]
    named = {
        "decided again": any(start.reason == "decided" for start in starts),
        "parked": any(turn.decided_by_claim and not turn.resumes for turn in turns),
        "resumed": any(turn.origin != turn.turn for turn in turns),
        "stale answer": any(turn.decided_by_claim and turn.resumes for turn in turns),
        "kept task": any(not path.endswith("|") for path in kept),
        "kept nested graph": any(path.endswith("|") for path in kept),
        "retried": bool(retries),
        "retried with keep": any(record.keep for record in retries),
        "unclaimed end": any(isinstance(record, TurnEnded) for record in log),
        "indeterminate tool": "indeterminate" in ledger.tools.values(),
    }
    return found | {name for name, is_so in named.items() if is_so}


@pytest.mark.parametrize("name", [name for name in PLANTS if name not in SCRIPTED])
def test_a_planted_error_is_found(name: str) -> None:
    error = PLANTS[name]
    with planted(error):
        tally = search((error.seed, *range(SEARCHED)), enough=1, planted=True)
    found = set(tally.invariants) - {"model"}  # a model that breaks is no invariant that does
    assert found, f"look for its seed: python -m tests.model --planted {name}"
    assert explore(error.seed) == {}


def test_a_reader_that_begins_at_a_void_start_is_partial() -> None:
    assert void_start_before_a_late_reader() == {}


@pytest.mark.parametrize("name", SCRIPTED)
def test_a_planted_error_shows_at_a_void_start(name: str) -> None:
    with planted(PLANTS[name]):
        assert "late" in void_start_before_a_late_reader()


def test_a_plant_whose_code_has_changed_says_so() -> None:
    error = PLANTS["decided-again"]
    edit = error.edits[0]._replace(old="what is not there")
    with (
        pytest.raises(LookupError, match="what is not there"),
        planted(type(error)(error.rule, error.seed, (edit,))),
    ):
        pass
    assert explore_planted(error.seed) == {}
