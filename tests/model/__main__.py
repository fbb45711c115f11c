"""Searches the model of a turn's life for schedules that break an invariant.

    python -m tests.model --schedules 100000 --seed 1
    python -m tests.model --planted decided-again    # a rule left out: has to fail
    python -m tests.model --planted all              # each of them in turn

Seeds count up from `--seed`. Exit code 1: a schedule broke an invariant; the shortest of those that
were found is printed, move by move. What the invariants are: `tests/model/invariants.py`.
"""

from __future__ import annotations

import argparse
import sys
import time
from contextlib import nullcontext
from typing import TYPE_CHECKING

from tests.model.planting import planted
from tests.model.plants.every import PLANTS
from tests.model.search import Tally, search, shortest

if TYPE_CHECKING:
    from collections.abc import Iterator

EVERY_S = 5.0
EXAMPLES = 20
"""Violating schedules among which the shortest is looked for."""


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.model",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("--schedules", type=int, default=10_000, help="how many")
    parser.add_argument("--seed", type=int, default=0, help="the first one's")
    parser.add_argument("--planted", default="", choices=["", "all", *PLANTS], metavar="NAME")
    return parser.parse_args()


def main() -> int:
    """Search; return 1 if a schedule broke an invariant, or, with `all`, if no schedule did."""
    given = arguments()
    if given.planted == "all":
        return _all(given)
    with planted(PLANTS[given.planted]) if given.planted else nullcontext():
        began = time.monotonic()
        tally = search(_told(given, began), enough=EXAMPLES, planted=bool(given.planted))
        print(f"{tally.runs} schedules in {time.monotonic() - began:.0f} s: {_found(tally)}")
        if not tally.violating:
            return 0
        example = shortest(tally.violating)
    print(f"\nseed {example.seed}, {len(example.moves)} moves:", *example.moves, sep="\n  ")
    print(*(f"{name}: {what}" for name, what in example.broken.items()), sep="\n")
    return 1


def _all(given: argparse.Namespace) -> int:
    missed = 0
    for name, error in PLANTS.items():
        with planted(error):
            tally = search(_told(given), enough=1, planted=True)
        missed += not tally.violating
        print(f"{name:34} {error.rule:4} {_found(tally)} after {tally.runs}", flush=True)
    return min(missed, 1)


def _found(tally: Tally) -> str:
    if not tally.violating:
        return "none broke an invariant"
    kinds = ", ".join(f"{name} {count}" for name, count in tally.invariants.most_common())
    return f"{len(tally.violating)} broke an invariant ({kinds}), first seed {tally.violating[0]}"


def _told(given: argparse.Namespace, began: float = 0.0) -> Iterator[int]:
    """Yield the seeds, and print from time to time how far the search is."""
    told = began
    for done in range(given.schedules):
        if began and time.monotonic() - told > EVERY_S:
            told = time.monotonic()
            print(f"{done} of {given.schedules} schedules, {told - began:.0f} s", file=sys.stderr)
        yield given.seed + done


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
