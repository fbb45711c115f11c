"""Bugs that can be planted, one for each invariant and some of the model's guards.

`python -m tests.chaos --planted NAME` has to fail: so the campaign is seen to look. Each is put
into the worker and edge processes (or, for the campaign's own fold, into this one) by replacing one
function; `breaks` says which invariant it is meant for, `faults` what brings it out.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True, slots=True)
class Plant:
    """One bug, and where it goes: `worker`, `edge` or `campaign`."""

    breaks: int
    where: str
    put: Callable[[], None]
    faults: tuple[str, ...] = ()


def plant(name: str, where: str) -> None:
    """Put the bug of this name into this process; nothing for ""."""
    if name and PLANTS[name].where == where:
        PLANTS[name].put()


def _lose_commands() -> None:
    """The intake moves its position past every third command."""
    from turnstream.connectors.postgres.ledger.ledger import Ledger

    admit, count = Ledger.admit, 0

    async def losing(self: Any, *given: Any, **more: Any) -> Any:
        nonlocal count
        kept = []
        for command in given[4]:
            count += 1
            if count % 3:
                kept.append(command)
        return await admit(self, *given[:4], kept, **more)

    Ledger.admit = losing


def _reverse() -> None:
    """The intake admits what it read in one go in the wrong order."""
    from turnstream.connectors.postgres.ledger.ledger import Ledger

    admit = Ledger.admit

    async def reversing(self: Any, *given: Any, **more: Any) -> Any:
        return await admit(self, *given[:4], list(given[4])[::-1], **more)

    Ledger.admit = reversing


def _say_twice() -> None:
    """An edge says some tokens to its clients twice."""
    from turnstream.streams.edge.surfaces.plain import SimpleProjection

    apply, count = SimpleProjection.apply, 0

    def doubling(self: Any, change: Any) -> Any:
        nonlocal count
        events = apply(self, change)
        count += 1
        return events + [event for event in events if event[0] == "token" and not count % 20]

    SimpleProjection.apply = doubling


def _keep_all() -> None:
    """An edge's fold takes nothing back when an attempt begins."""
    from turnstream.schemas.fold import fold

    fold.is_kept = lambda *_: True


def _skip_n() -> None:
    """A worker gives out an `n` and hands no record over for it."""
    from turnstream.streams.worker.emitter import TurnEmitter

    say, count = TurnEmitter._say, 0

    def skipping(self: Any, *given: Any, **more: Any) -> None:
        nonlocal count
        count += 1
        self.log.n += not count % 25
        say(self, *given, **more)

    TurnEmitter._say = skipping


def _act_again() -> None:
    """The tool acts twice in one call, as a retry without a record of it would."""
    from turnstream.graph.tools.function import FunctionTool

    run, count = FunctionTool.run, 0

    async def repeating(self: Any, *given: Any) -> Any:
        nonlocal count
        count += 1
        if count % 2:
            await run(self, *given)
        return await run(self, *given)

    FunctionTool.run = repeating


def _no_fence() -> None:
    """The saver's statements do not compare the epoch."""
    from turnstream.connectors.postgres.checkpoints import statements

    compares = "AND epoch = %(epoch)::int8"
    for name in ("_FENCE", "_FENCED"):
        text = getattr(statements, name)
        assert compares in text, "nothing was planted"
        setattr(statements, name, text.replace(compares, "AND %(epoch)::int8 > 0"))


def _no_acks() -> None:
    """Commits do not wait until the log has what was said."""
    from turnstream.streams.worker.emitter import TurnEmitter

    async def at_once(self: Any, n: int) -> None:
        return

    TurnEmitter.acked = at_once


def _forget_keep() -> None:
    """The campaign's own reader folds without `keep`."""
    from turnstream.schemas.fold import fold

    fold.is_kept = lambda *_: False


def _leave_tasks() -> None:
    """Every attempt leaves a task behind."""
    from turnstream.streams.worker.attempt import TurnAttempt

    run, left = TurnAttempt.run, []

    async def leaving(self: Any) -> Any:
        left.append(asyncio.create_task(TurnAttempt_left_behind()))
        return await run(self)

    TurnAttempt.run = leaving


async def TurnAttempt_left_behind() -> None:  # noqa: N802  its name is what the check looks for
    """Wait for ever."""
    await asyncio.Event().wait()


_ANY = ("kill-idle",)
"""For a bug that needs no fault: one that is quick to play."""

PLANTS: dict[str, Plant] = {
    "lost-commands": Plant(1, "worker", _lose_commands, faults=_ANY),
    "doubled-tokens": Plant(3, "edge", _say_twice, faults=_ANY),
    "no-rewind": Plant(2, "edge", _keep_all, faults=("kill@token", "kill@nested")),
    "skipped-n": Plant(3, "worker", _skip_n, faults=_ANY),
    "no-acks": Plant(
        3,
        "worker",
        _no_acks,
        # what was committed has to be on its way to the log still when its worker dies
        faults=("stall-worker-kafka", "cut-worker-kafka", "kill-worker"),
    ),
    "reversed-batches": Plant(4, "worker", _reverse, faults=_ANY),
    "tools-again": Plant(5, "worker", _act_again, faults=_ANY),
    "no-fence": Plant(6, "worker", _no_fence, faults=("freeze@commit",)),
    "no-keep": Plant(7, "campaign", _forget_keep, faults=("kill@writes", "kill@nested")),
    "left-tasks": Plant(8, "worker", _leave_tasks, faults=_ANY),
}
