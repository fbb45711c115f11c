"""Tasks of the modelled graph: plain ones, and those that hold a nested graph (W4, W5, W5n)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias

from tests.model.commits import end_tool, put_nested, put_write, start_tool
from tests.model.process import in_flight
from tests.model.records import Envelope, retried
from tests.model.rows import Nested, Write
from turnstream.schemas.fold.fold import covers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.model.attempt import Attempt
    from tests.model.process import Condition, Moves
    from turnstream.schemas.records.events import Event

How: TypeAlias = Literal["done", "failed", "asks"]


@dataclass(frozen=True)
class Spec:
    """What a task does: calls a tool, asks the user before it can finish, or runs inner steps."""

    tool: bool = False
    asks: bool = False
    inner: Sequence[Sequence[Spec]] = field(default=())


def run(attempt: Attempt, path: str, spec: Spec, base: object) -> Moves[None]:
    """Run one task, and again as often as it is retried inside the attempt."""
    again = 0
    while True:
        how = yield from _body(attempt, path, spec, base, again)
        if how != "failed" or not attempt.world.retries():
            break
        again += 1
        attempt.stop(path + "|")
        yield lambda: not any(t.path.startswith(path + "|") for t in attempt.threads)
        attempt.n += 1
        keep = [entry for entry in attempt.keep if covers(path, entry.path)]
        attempt.take_back(path, keep)
        attempt.publish(retried(Envelope(attempt.turn, attempt.epoch, attempt.n, path), keep))
    attempt.ended[path] = how
    if how == "failed" and "|" not in path:
        attempt.failed = True


def _body(attempt: Attempt, path: str, spec: Spec, base: object, again: int) -> Moves[How]:
    """One run of a task. Its texts differ from run to run."""
    world = attempt.world
    own: list[Event] = []
    inside: tuple[Event, ...] = ()
    texts = [f"{path}@{attempt.epoch}.{again}.{i}" for i in range(world.event_count())]
    for text in texts:
        yield None
        own.append(attempt.say(path, text))
    if spec.inner:
        how = yield from _inner(attempt, path, spec)
        if how != "done":
            return how
        inside = attempt.nested.get(path, Nested()).events
        if world.pick((0, 1)):
            yield None
            own.append(attempt.say(path, f"{path}@{attempt.epoch}.{again}.end"))
    elif spec.tool:
        yield None
        yield from _call_tool(attempt, path)
    yield None
    if world.task_fails():
        return "failed"
    if spec.asks and path not in attempt.claim.answers:
        attempt.asks.add(path)
        return "asks"
    n = attempt.n
    yield attempt.acked()
    write = Write(attempt.turn, attempt.epoch, path, base, (*own, *inside))
    yield in_flight
    attempt.keep = put_write(attempt.ledger, write, n)
    attempt.pending[path] = write
    world.commits.append((attempt.turn, len(world.log), write.events))
    return "done"


def _inner(attempt: Attempt, path: str, spec: Spec) -> Moves[How]:
    """Run the inner steps of a nested graph, from its own last checkpoint on."""
    while (at := attempt.nested.get(path, Nested())).step < len(spec.inner):
        specs = spec.inner[at.step]
        prefix = f"{path}|{at.step + 1}"
        attempt.spawn(prefix, specs, at)
        names = [prefix + letter for letter, _ in zip("abc", specs, strict=False)]
        yield _over(attempt.ended, names)
        how = {attempt.ended.get(name) for name in names}
        if "failed" in how:
            return "failed"
        if "asks" in how:
            return "asks"
        n = attempt.n
        yield attempt.acked()
        yield in_flight
        attempt.nested[path], attempt.keep = put_nested(
            attempt.ledger, attempt.epoch, attempt.turn, path, n
        )
        for name in names:
            del attempt.pending[name]
        yield None  # a stopped task ends here
    return "done"


def _over(ended: dict[str, str], names: Sequence[str]) -> Condition:
    """Return the condition that all of these tasks have ended, or that one has failed."""
    return lambda: "failed" in map(ended.get, names) or all(name in ended for name in names)


def _call_tool(attempt: Attempt, path: str) -> Moves[str]:
    """Call one tool through the ledger (T1 to T3)."""
    call = attempt.claim.origin, path
    known = start_tool(attempt.ledger, attempt.epoch, call)
    yield None
    if known not in ("", "started"):
        return known
    if known and not attempt.world.tool_honours_key:
        result = "indeterminate"
    else:
        result = attempt.world.act(call)
        yield None
    end_tool(attempt.ledger, attempt.epoch, call, result)
    yield None
    return result
