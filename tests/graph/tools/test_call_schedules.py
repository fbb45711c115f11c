"""Every schedule of three attempts at one call: killed or frozen anywhere, waking up anywhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from turnstream.connectors.memory.tool_calls import MemoryToolCalls
from turnstream.graph.tools.recorded_calls import call_once
from turnstream.schemas.errors import FencedError
from turnstream.schemas.tool_calls import ToolCall

if TYPE_CHECKING:
    from collections.abc import Coroutine, Generator

    from turnstream.schemas.tool_calls import Known

CALL = ToolCall("task", 0, "act", b"digest", "key")
ATTEMPTS = 3
UNKNOWN = "unknown"


class Pause:
    """A place where a schedule may go on with another attempt."""

    def __await__(self) -> Generator[None, None, None]:
        yield


class World:
    """The ledger, the epoch, the effects; and the attempts, each as far as it has come."""

    def __init__(self, kind: str) -> None:
        self.kind, self.rows, self.epoch = kind, {}, 0
        self.effects = 0
        self.results: dict[int, Any] = {}
        self.running: list[Coroutine[Any, Any, None] | None] = []
        self.seen: list[tuple[Any, ...]] = []  # by attempt: its steps, and what it was told

    def claim(self) -> None:
        self.epoch += 1
        self.running.append(self.attempt(self.epoch))
        self.seen.append(())

    def step(self, number: int) -> None:
        """Let an attempt go on to its next pause."""
        attempt = self.running[number]
        assert attempt is not None
        self.seen[number] += (self.effects, repr(self.rows))
        try:
            attempt.send(None)
        except (StopIteration, FencedError):
            self.running[number] = None

    def state(self) -> Any:
        """Return all that the rest of a schedule can depend on."""
        return self.effects, repr(self.rows), tuple(self.results.items()), tuple(self.seen)

    async def attempt(self, epoch: int) -> None:
        await Pause()
        self.results[epoch] = await call_once(
            FencedCalls(self, epoch),
            CALL,
            honours_key=self.kind == "charge",
            run=self.run,
            find=self.find,
            unknown=lambda _: UNKNOWN,
        )

    async def run(self) -> str:
        await Pause()
        if self.kind != "charge" or not self.effects:
            self.effects += 1
        await Pause()
        return "done"

    async def find(self) -> str | None:
        await Pause()
        found = "done" if self.kind == "post" and self.effects else None
        await Pause()
        return found


class FencedCalls(MemoryToolCalls):
    """The twin under an epoch: each transaction is one step."""

    def __init__(self, world: World, epoch: int) -> None:
        super().__init__(world.rows)
        self._world, self._epoch = world, epoch

    async def start(self, call: ToolCall) -> Known:
        await Pause()
        self._check()
        return await super().start(call)

    async def finish(self, call: ToolCall, result: Any) -> None:
        await Pause()
        self._check()
        await super().finish(call, result)

    def _check(self) -> None:
        if self._epoch != self._world.epoch:
            raise FencedError


def schedules(kind: str) -> Generator[World, None, None]:
    """Yield the world after every schedule: -1 is a claim, a number the attempt that goes on.

    An attempt that is never let on was killed; one that goes on after a claim was frozen.
    """
    waiting: list[tuple[int, ...]] = [(-1,)]
    known = set()
    while waiting:
        played = waiting.pop()
        world = World(kind)
        for move in played:
            world.claim() if move < 0 else world.step(move)
        state = world.state()
        if state in known:
            for attempt in world.running:
                if attempt is not None:
                    attempt.close()
            continue
        known.add(state)
        yield world
        if len(world.running) < ATTEMPTS:
            waiting.append((*played, -1))
        waiting += [(*played, i) for i, one in enumerate(world.running) if one is not None]
        for attempt in world.running:
            if attempt is not None:
                attempt.close()


@pytest.mark.parametrize("kind", ["charge", "mark", "post"])
def test_no_schedule_acts_twice_or_tells_what_did_not_happen(kind: str) -> None:
    seen = set()
    for world in schedules(kind):
        assert world.effects <= 1
        told = world.results.get(world.epoch)
        if told == "done":
            assert world.effects == 1
        assert (told, kind) != (UNKNOWN, "charge")
        results = [world.results[epoch] for epoch in sorted(world.results)]
        if "done" in results:  # what was recorded is what every later attempt tells
            assert set(results[results.index("done") :]) == {"done"}
        seen.add((told, world.effects))
    wanted = {(None, 0), (None, 1), ("done", 1)}
    if kind != "charge":
        wanted |= {(UNKNOWN, 0), (UNKNOWN, 1)}
    assert wanted <= seen
