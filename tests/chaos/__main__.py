"""The fault campaign: `python -m tests.chaos --runs 100 --seed 1`."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import tempfile
import time
from pathlib import Path

import uvloop

from tests.chaos import blows
from tests.chaos.campaign import Tally, run_campaign
from tests.chaos.processes import template
from tests.chaos.servers import PlainServers, local_servers
from tests.chaos.stage import stage
from tests.chaos.story import Story, Teller, read_story


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--runs", type=int, default=100, help="stories to play")
    parser.add_argument("--minutes", type=float, default=0.0, help="end after so long; 0: never")
    parser.add_argument("--seed", default="1", help="a number; or one run's, such as 1.17")
    parser.add_argument("--story", default="", help="a story's JSON, to play as it is")
    parser.add_argument("--faults", nargs="*", default=[], help="names or their beginnings")
    parser.add_argument("--planted", default="", help="a bug to plant, see planted.py")
    parser.add_argument("--stages", type=int, default=3, help="stories side by side")
    parser.add_argument("--keep", type=Path, default=None, help="a folder for the logs")
    return parser.parse_args()


@contextlib.contextmanager
def servers(folder: Path):
    """Give what runs already (as the tests do), or start it."""
    kafka = os.environ.get("TURNSTREAM_TEST_KAFKA", "")
    database = os.environ.get("TURNSTREAM_TEST_DATABASE", "")
    if kafka and database:
        yield PlainServers(kafka, database)
        return
    with local_servers(folder) as local:
        yield local


def stories(given: argparse.Namespace):
    """Yield what is to be played."""
    teller = Teller(given.faults, tuple(blows.WEIGHTS.items()))
    if given.story:
        story = read_story(given.story)
        yield from (story for _ in range(given.runs))
    elif "." in given.seed:
        yield from (teller.story(given.seed) for _ in range(given.runs))
    else:
        yield from (teller.story(f"{given.seed}.{i}") for i in range(given.runs))


async def run(given: argparse.Namespace, folder: Path) -> Tally:
    """Open the stages and play."""
    with servers(folder) as running:
        async with contextlib.AsyncExitStack() as stack:
            forks = await stack.enter_async_context(template(folder))
            names = [f"c{os.getpid()}{chr(ord('a') + i)}" for i in range(given.stages)]
            opened = await asyncio.gather(
                *(
                    stack.enter_async_context(
                        stage(name, folder / name, running, forks, planted=given.planted)
                    )
                    for name in names
                )
            )
            until = time.monotonic() + 60 * given.minutes if given.minutes else float("inf")
            return await run_campaign(opened, iter(_Once(stories(given))), until=until)


class _Once:
    """An iterator that several loops may draw from."""

    def __init__(self, drawn) -> None:
        self._drawn = drawn

    def __iter__(self):
        return self

    def __next__(self) -> Story:
        return next(self._drawn)


def main() -> None:
    """Run a campaign and say what it saw."""
    given = arguments()
    with tempfile.TemporaryDirectory(prefix="chaos-") as made:
        folder = given.keep or Path(made)
        folder.mkdir(exist_ok=True, parents=True)
        began = time.monotonic()
        tally = uvloop.run(run(given, folder))
        took = time.monotonic() - began
        print(f"{tally.runs} runs, {tally.turns} turns in {took:.1f} s")
        print(
            "hits", sorted(__import__("collections").Counter(h.fault for h in tally.hits).items())
        )
        waits = sorted(h.next_token_s for h in tally.hits if h.next_token_s is not None)
        print("next token", [round(w, 2) for w in waits])
        print(
            "overlap",
            sum(h.overlap_s for h in tally.hits),
            "rewinds",
            tally.rewinds,
            "void",
            tally.void_records,
            "ends",
            tally.ends,
            "attempts",
            tally.attempts,
        )
        print("broken", dict(tally.broken))
        raise SystemExit(bool(tally.failed))


if __name__ == "__main__":
    main()
