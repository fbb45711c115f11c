"""The fault campaign: `python -m tests.chaos --runs 100 --seed 1`.

Plays seeded stories on the real stack and checks the invariants of `invariants.py`. A run's seed is
`<seed>.<number>`; `--seed 1.17` plays that one again. Where TURNSTREAM_TEST_KAFKA and
TURNSTREAM_TEST_DATABASE name servers they are used, and no fault harms them; else it starts its
own, with links that can be cut. Exit code 1: an invariant was broken.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uvloop

from tests.bench.machine import machine_busy_s
from tests.chaos import blows, planted
from tests.chaos.campaign import Tally, check_leaks, run_campaign, shorten
from tests.chaos.parts import everything
from tests.chaos.processes import template, used_cpu_s
from tests.chaos.report import Conditions, markdown, report_of, write_report
from tests.chaos.servers import PlainServers
from tests.chaos.stage import stage
from tests.chaos.standstill import Standstill
from tests.chaos.story import Teller, read_story

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from tests.chaos.story import Story


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("--runs", type=int, default=1000, help="stories to play")
    parser.add_argument("--minutes", type=float, default=0.0, help="end after so long; 0: never")
    parser.add_argument("--seed", default="1", help="a number; or one run's, such as 1.17")
    parser.add_argument("--story", default="", help="a story's JSON, to play as it is")
    parser.add_argument("--faults", nargs="*", default=[], help="names or their beginnings")
    parser.add_argument("--planted", default="", choices=["", *planted.PLANTS], help="a bug")
    parser.add_argument("--stages", type=int, default=3, help="stories side by side")
    parser.add_argument("--brokers", type=int, default=1, choices=(1, 3), help="of Kafka")
    parser.add_argument("--plain", action="store_true", help="no links: fewer faults, less CPU")
    parser.add_argument("--shorten", type=float, default=60.0, help="seconds for shortest stories")
    parser.add_argument("--report", type=Path, default=None, help="write <path>.json and .md")
    parser.add_argument("--keep", type=Path, default=None, help="a folder for the logs")
    given = parser.parse_args()
    if given.planted and not given.faults:
        given.faults = list(planted.PLANTS[given.planted].faults)
    return given


@contextlib.asynccontextmanager
async def servers(given: argparse.Namespace, folder: Path) -> AsyncIterator[Any]:
    """Give what runs already (as the tests do), or start it."""
    kafka = os.environ.get("TURNSTREAM_TEST_KAFKA", "")
    database = os.environ.get("TURNSTREAM_TEST_DATABASE", "")
    if kafka and database and given.plain:
        yield PlainServers(kafka, database)
        return
    async with everything.open_servers(folder / "servers", brokers=given.brokers) as opened:
        yield opened


def stories(given: argparse.Namespace, supports: frozenset[str]) -> Iterator[Story]:
    """Yield what is to be played."""
    weights = {**blows.WEIGHTS, **{n: w for n, w in everything.WEIGHTS.items() if n in supports}}
    teller = Teller(given.faults, tuple(weights.items()))
    if given.story:
        yield from (read_story(given.story) for _ in range(given.runs))
    elif "." in given.seed:
        yield from (teller.story(given.seed) for _ in range(given.runs))
    else:
        yield from (teller.story(f"{given.seed}.{i}") for i in range(given.runs))


async def run(given: argparse.Namespace, folder: Path) -> tuple[Tally, Conditions]:
    """Open the stages, play, look for leaks, shorten what failed."""
    began, began_at = datetime.now(UTC), time.monotonic()
    async with contextlib.AsyncExitStack() as stack:
        standstill = Standstill()
        stack.enter_context(standstill.watched())
        running = await stack.enter_async_context(servers(given, folder))
        forks = await stack.enter_async_context(template(folder))
        opened = [
            await stack.enter_async_context(
                stage(f"c{os.getpid()}{i}", folder / f"stage{i}", running, forks, given.planted)
            )
            for i in range(given.stages)
        ]
        busy, used = machine_busy_s(), used_cpu_s()
        until = time.monotonic() + 60 * given.minutes if given.minutes else float("inf")
        standstill.went_on()
        tally = await run_campaign(
            opened, stories(given, running.supports), standstill.went_on, until=until
        )
        wall = time.monotonic() - began_at
        ours = used_cpu_s() - used
        others = max(0.0, machine_busy_s() - busy - ours) / (wall * (os.cpu_count() or 1))
        if tally.failed and given.shorten and not given.planted:
            await shorten(
                opened[0], tally, standstill.went_on, until=time.monotonic() + given.shorten
            )
        await check_leaks(opened, tally, standstill.went_on)
    return tally, Conditions(
        command=shlex.join(["python", "-m", "tests.chaos", *sys.argv[1:]]),
        began=began.strftime("%Y-%m-%d %H:%M UTC"),
        commit=_commit(),
        servers="servers that ran already" if isinstance(running, PlainServers)
        else f"{given.brokers} broker(s) and Postgres behind links",
        stages=given.stages,
        wall_s=wall,
        others_share=others,
    )  # fmt: skip


def _commit() -> str:
    told = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return told.stdout.strip() or "unknown"


def main() -> None:
    """Run a campaign and say what it saw."""
    given = arguments()
    planted.plant(given.planted, "campaign")
    for name in ("aiokafka", "asyncpg"):  # servers that go and come are what this is about
        logging.getLogger(name).setLevel(logging.CRITICAL)
    # a time-out of somebody else's ends everything in order, as Ctrl-C does; a shell's `&` has that
    # one ignored
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    with tempfile.TemporaryDirectory(prefix="chaos-") as made:
        folder = given.keep or Path(made)
        folder.mkdir(exist_ok=True, parents=True)
        tally, conditions = uvloop.run(run(given, folder))
    report = report_of(tally, conditions)
    if given.report:
        write_report(report, given.report)
    print(markdown(report))
    if given.planted:
        wanted = planted.PLANTS[given.planted].breaks
        print(
            f"planted: {given.planted}; broken: {json.dumps(dict(tally.broken))}; meant: {wanted}"
        )
    raise SystemExit(1 if +tally.broken else 0)


if __name__ == "__main__":
    main()
