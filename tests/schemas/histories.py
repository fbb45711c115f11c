"""Histories of one turn: what several attempts, crashes and zombies leave in the log.

Kept apart from the rules that the fold follows: here every item carries a flag that says whether
the ledger holds it; the truth at the end is the items of the last attempt plus the flagged ones.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

from turnstream.schemas.fold.fold import add_keep
from turnstream.schemas.records.events import (
    AttemptStarted,
    CustomEmitted,
    Event,
    Keep,
    TaskRetried,
    TurnCompleted,
)

TURN = "00000000-0000-7000-8000-000000000001"


@dataclass
class Item:
    event: Event
    held: bool = False


@dataclass
class Task:
    """A task of a step; `inner` are the tasks of the steps of a nested graph, if it has one."""

    path: str
    inner: list[list[Task]] = field(default_factory=list)
    done: bool = False
    inner_step: int = 0


@dataclass
class History:
    """Runs one turn of up to three steps with crashes; `log` is what Kafka holds in the end."""

    rng: Random
    crashes: int = 2
    log: list[Event] = field(default_factory=list)
    late: list[list[Event]] = field(default_factory=list)
    shown: list[Item] = field(default_factory=list)
    epoch: int = 0
    base: int = 0
    n: int = 0
    keep_n: int = 0
    high_n: int = 0
    keep: tuple[Keep, ...] = ()
    said: int = 0

    def run(self) -> History:
        steps = [self._step(f"s{i}") for i in range(self.rng.randint(1, 3))]
        at = 0
        while at < len(steps):
            self._claim()
            try:
                while at < len(steps):
                    self._run_tasks(steps[at])
                    self._commit_root()
                    at += 1
            except Crash:
                continue
            self._flush_late()
        self._publish(TurnCompleted, n=self._next(), text="the end")
        self._flush_late(everything=True)
        return self

    @property
    def truth(self) -> list[str]:
        return [item.event.event_id for item in self.shown]

    def _step(self, name: str) -> list[Task]:
        tasks = [Task(f"{name}{letter}") for letter in "abc"[: self.rng.randint(1, 3)]]
        for task in tasks:
            if self.rng.random() < 0.3:
                task.inner = [
                    [Task(f"{task.path}|{i}{letter}") for letter in "xy"[: self.rng.randint(1, 2)]]
                    for i in range(self.rng.randint(1, 2))
                ]
        return tasks

    def _claim(self) -> None:
        self.epoch += 1
        self.shown = [item for item in self.shown if item.held]
        self.n = self.high_n
        self.log.append(
            AttemptStarted(
                **self._envelope(self.n, ""),
                reason="first",
                base=self.base,
                keep_n=self.keep_n,
                high_n=self.high_n,
                keep=list(self.keep),
            )
        )

    def _envelope(self, n: int, path: str) -> dict[str, object]:
        return {
            "event_id": f"{TURN}-{self.epoch}-{n}", "tenant": "t", "thread_id": "x",
            "turn_id": TURN, "epoch": self.epoch, "n": n, "path": path,
        }  # fmt: skip

    def _next(self) -> int:
        self.n += 1
        return self.n

    def _publish(self, kind: type[Event], *, n: int, path: str = "", **fields: object) -> Event:
        event = kind(**self._envelope(n, path), **fields)
        self.log.append(event)
        return event

    def _say(self, path: str) -> None:
        self.said += 1
        event = self._publish(
            CustomEmitted, n=self._next(), path=path, name="said", payload=str(self.said)
        )
        self.shown.append(Item(event))

    def _maybe_crash(self) -> None:
        self._flush_late()
        if self.crashes and self.rng.random() < 0.06:
            self.crashes -= 1
            # what the dead worker had sent and what lands after its successor began
            zombie = [
                CustomEmitted(
                    **self._envelope(self.n + 1 + i, "zombie"), name="void", payload="void"
                )
                for i in range(self.rng.randint(0, 3))
            ]
            self.late.append(zombie)
            raise Crash

    def _flush_late(self, *, everything: bool = False) -> None:
        for queue in self.late:
            while queue and (everything or self.rng.random() < 0.5):
                self.log.append(queue.pop(0))

    def _run_tasks(self, tasks: list[Task]) -> None:
        running = [(task, self._body(task)) for task in tasks if not task.done]
        while running:
            self._maybe_crash()
            at = self.rng.randrange(len(running))
            try:
                next(running[at][1])
            except StopIteration:
                running.pop(at)

    def _body(self, task: Task):
        while True:
            for _ in range(self.rng.randint(0, 3)):
                self._say(task.path)
                yield
            while task.inner_step < len(task.inner):
                inner = task.inner[task.inner_step]
                bodies = [self._body(one) for one in inner if not one.done]
                while bodies:
                    body = self.rng.choice(bodies)
                    try:
                        next(body)
                    except StopIteration:
                        bodies.remove(body)
                    yield
                self._commit(task.path + "|")
                task.inner_step += 1
                yield
            if self.rng.random() > 0.1:
                break
            self._retry(task)
            yield
        for _ in range(self.rng.randint(0, 1)):
            self._say(task.path)
            yield
        self._commit(task.path)
        task.done = True

    def _retry(self, task: Task) -> None:
        under = lambda path: path == task.path or path.startswith(task.path + "|")  # noqa: E731
        self.shown = [item for item in self.shown if item.held or not under(item.event.path)]
        keep = [entry for entry in self.keep if under(entry.path)]
        self._publish(TaskRetried, n=self._next(), path=task.path, keep=keep)
        self.shown.append(Item(self.log[-1]))

    def _commit(self, path: str) -> None:
        """The ledger takes a task's writes (or a nested graph's checkpoint)."""
        self.keep = add_keep(self.keep, Keep(path, self.n))
        self.high_n, self.base = self.n, self.epoch
        for item in self.shown:
            said_at = item.event.path
            covered = (
                said_at.startswith(path)
                if path.endswith("|")
                else said_at == path or said_at.startswith(path + "|")
            )
            item.held = item.held or covered

    def _commit_root(self) -> None:
        self._maybe_crash()
        self.keep, self.keep_n, self.high_n, self.base = (), self.n, self.n, self.epoch
        for item in self.shown:
            item.held = True


class Crash(Exception):
    """The worker is gone."""
