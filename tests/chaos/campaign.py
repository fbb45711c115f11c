"""Many stories on several stages, and what came of them."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.chaos.faults import FAULTS
from tests.chaos.invariants import Broken, broken_in
from tests.chaos.leaks import left_ended, left_running
from tests.chaos.play import play
from tests.chaos.recovery import measure
from tests.chaos.shrink import shortest
from turnstream.schemas.fold.fold import Verdict
from turnstream.schemas.records.events import TaskRetried

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from tests.chaos.played import Hit, Played
    from tests.chaos.stage import RealStage
    from tests.chaos.story import Story


@dataclass(slots=True)
class Failed:
    """A story that broke something; `shortest` breaks it too."""

    story: Story
    broken: list[Broken]
    shortest: Story | None = None


@dataclass(slots=True)
class Tally:
    """What a campaign has seen."""

    runs: int = 0
    turns: int = 0
    ends: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    drawn: Counter[str] = field(default_factory=Counter)
    hits: list[Hit] = field(default_factory=list)
    rewinds: int = 0
    retries: int = 0
    void_records: int = 0
    client_drops: int = 0
    attempts: Counter[int] = field(default_factory=Counter)
    broken: Counter[int] = field(default_factory=Counter)
    failed: list[Failed] = field(default_factory=list)
    run_s: list[float] = field(default_factory=list)
    leaks: list[str] = field(default_factory=list)
    gave_up: int = 0

    def take(self, played: Played, broken: list[Broken]) -> None:
        """Count one run."""
        self.runs += 1
        self.turns += len(played.rows)
        self.run_s.append(played.took_s)
        self.hits += played.hits
        self.drawn.update(blow.fault for blow in played.story.blows)
        for row in played.rows:
            self.attempts[row["attempts"]] += 1
            sent = played.sent.get(str(row["turn_id"]))
            self.kinds[sent.kind if sent else "?"] += 1
        for log in played.logs.values():
            for entry in log.entries:
                self.retries += isinstance(entry.record, TaskRetried)
                self.rewinds += entry.change.verdict is Verdict.REWOUND
                view = entry.change.turn
                void = view is not None and entry.record.epoch < view.epoch
                self.void_records += void and entry.change.verdict is Verdict.IGNORED
            for view in log.fold.turns.values():
                if view.terminal is not None:
                    self.ends[type(view.terminal).__name__] += 1
        self.gave_up += sum(bool(sdk.gave_up) for sdk in played.sdks)
        self.client_drops += sum(c.drops for cs in played.plain.values() for c in cs)
        self.broken.update({b.invariant for b in broken})
        if broken:
            self.failed.append(Failed(played.story, broken))


class Turns:
    """Lets stories go on side by side, but one that harms the servers alone."""

    def __init__(self) -> None:
        self._changed = asyncio.Condition()
        self._playing = 0
        self._alone = False

    @contextlib.asynccontextmanager
    async def of(self, story: Story) -> AsyncIterator[None]:
        """Wait for this story's turn."""
        alone = any(
            b.fault in FAULTS and FAULTS[b.fault].scope == "servers"  # type: ignore[attr-defined]
            for b in story.blows
        )
        async with self._changed:
            await self._changed.wait_for(lambda: not self._alone)
            self._alone = alone
            try:
                await self._changed.wait_for(lambda: not (alone and self._playing))
            except BaseException:
                self._alone = False
                self._changed.notify_all()
                raise
            self._playing += 1
        try:
            yield
        finally:
            async with self._changed:
                self._playing -= 1
                self._alone = self._alone and not alone
                self._changed.notify_all()


async def play_and_check(stage: RealStage, story: Story) -> tuple[Played, list[Broken]]:
    """Play one story on a stage that is whole, and check it."""
    await stage.enough()
    played = await play(stage, story)
    measure(played, stage)
    return played, broken_in(played)


async def shorten(
    stage: RealStage, tally: Tally, went_on: Callable[[], None], *, until: float
) -> None:
    """Find the shortest story of what failed, one after the other, as far as the time goes."""

    async def breaks(story: Story) -> bool:
        _, broken = await play_and_check(stage, story)
        went_on()
        return bool(broken)

    for failed in tally.failed:
        if time.monotonic() > until:
            return
        failed.shortest = await shortest(failed.story, breaks, until=until)
        again = failed.shortest.told() if failed.shortest else "it broke nothing when played again"
        print(f"  {failed.story.seed}, shortest: {again}", flush=True)


async def check_leaks(stages: list[RealStage], tally: Tally, went_on: Callable[[], None]) -> None:
    """Invariant 8, on every stage; then all its processes have ended."""
    for stage in stages:
        await stage.whole()
        for one in [*await left_running(stage), *await left_ended(stage)]:
            tally.broken[one.invariant] += 1
            tally.leaks.append(one.what)
            print(f"  invariant {one.invariant} is broken: {one.what}", flush=True)
        went_on()


async def run_campaign(
    stages: list[RealStage],
    stories: Iterator[Story],
    went_on: Callable[[], None],
    *,
    until: float = float("inf"),
) -> Tally:
    """Play stories until there are no more or the time (monotonic) has come.

    `went_on` is called whenever one has ended, as in the other functions here.
    """
    tally, turns = Tally(), Turns()

    async def play_on(stage: RealStage) -> None:
        for story in stories:
            if time.monotonic() > until:
                return
            async with turns.of(story):
                played, broken = await play_and_check(stage, story)
            tally.take(played, broken)
            went_on()
            for one in broken:
                _tell(f"  {story.seed}: invariant {one.invariant} is broken: {one.what[:600]}")
            if broken:
                _tell(f"  {story.seed}: {story.told()}")
            elif tally.runs % 10 == 0:
                _tell(f"  {tally.runs} runs, {len(tally.hits)} hits, {len(tally.failed)} failed")

    async with asyncio.TaskGroup() as playing:
        for stage in stages:
            playing.create_task(play_on(stage))
    return tally


def _tell(line: str) -> None:
    print(line, flush=True)
