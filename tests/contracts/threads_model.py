"""Many threads over the modelled ledger of `tests/model`, which knows one thread.

Each thread is a `tests.model.ledger.Ledger`, changed by the same transactions that the search of
`tests/model` runs. This module adds what several threads share, and what that model leaves out:
batches and their refusal, the room of a worker, the order of `ready`, suspects, questions by their
ids, expiry.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field

from tests.model import admission, claims, commits
from tests.model.ledger import CancelAhead, Fenced, Ledger
from tests.model.records import LIFE, Outcome
from tests.model.rows import Cancel, Resume, Start, Turn, Write

STATUS = {"cancel": "cancelled", "rollback": "cancelled"}
"""The ledger's word for an outcome of the model, where it is another."""

SUSPECT, PARKED, DECIDED = 2, 4, 5
"""Counted attempts after which a turn is a suspect, is parked, is ended by the ledger itself."""


@dataclass(frozen=True)
class Command:
    """A command, with the thread that it is for."""

    kind: str
    turn: str
    thread: str
    answers: tuple[str, ...] = ()
    policy: str = "enqueue"
    known: bool = True
    expires: bool = False

    @property
    def front(self) -> bool:
        """Whether the turn goes before those that wait."""
        return self.policy in ("interrupt", "rollback")

    def modelled(self) -> Start | Resume | Cancel:
        """Return the command of one thread's model. What a resume answers is settled later."""
        if self.kind == "cancel":
            return Cancel(self.turn)
        if self.kind == "resume":
            return Resume(self.turn, "unsettled")
        return Start(self.turn, self.policy, self.known)


@dataclass
class Thread:
    """One thread's ledger, and what stands beside it: questions by id, revs, its place in ready."""

    rows: Ledger
    ids: tuple[str, ...] = ()
    expired: frozenset[str] = frozenset()
    told: tuple[tuple[str, int, str], ...] = ()
    rev: int = 0
    ready: int | None = None
    last: Turn | None = None
    why: dict[str, str] = field(default_factory=dict)

    @property
    def head(self) -> Turn | None:
        """The turn that is claimed and not closed."""
        return self.rows.turns.get(self.rows.head)

    @property
    def cancel(self) -> str | None:
        """The flag that the thread's owner finds."""
        return (self.head.cancel if self.head else "") or None

    @property
    def attempts(self) -> int:
        """The counted attempts at the turn that was claimed last."""
        return self.last.attempts if self.last else 0

    @property
    def checkpoints(self) -> list[tuple[str, str]]:
        """The turns and ids of the checkpoints in the thread's state."""
        return [(entry.turn, write.path) for entry in self.rows.state for write in entry.writes]

    def status(self, row: Turn) -> str | None:
        """Return how a turn ended, in the ledger's words."""
        return row.outcome and STATUS.get(row.outcome.kind, row.outcome.kind)

    def shut(self) -> None:
        """Close the open questions."""
        self.rows.asks, self.ids = None, ()


@dataclass
class Model:
    """What the functions of the ledger must do. Methods return what the functions must return."""

    timeline: int
    positions: list[int] = field(default_factory=lambda: [0, 0])
    made: dict[str, Thread] = field(default_factory=dict)
    commands: dict[str, Command] = field(default_factory=dict)
    workers: set[int] = field(default_factory=set)
    suspects: dict[int, str] = field(default_factory=dict)
    expiries: set[tuple[str, str]] = field(default_factory=set)
    waits: int = 0

    @property
    def threads(self) -> dict[str, Thread]:
        """The threads that have a turn: a cancel for a turn that never came makes none."""
        return {key: thread for key, thread in self.made.items() if thread.rows.turns}

    @property
    def turns(self) -> list[tuple[str, Thread, Turn]]:
        """Every turn, with its thread."""
        return [
            (key, thread, row)
            for key, thread in self.made.items()
            for row in thread.rows.turns.values()
        ]

    def rise(self) -> None:
        """Begin another timeline: the database was restored."""
        self.timeline += 1
        for thread in self.made.values():
            thread.rows.timeline = self.timeline

    def broken(self) -> dict[str, str]:
        """Return the invariants that a thread's own model saw broken."""
        return {k: v for thread in self.made.values() for k, v in thread.rows.broken.items()}

    # intakes

    def admit(
        self, part: int, at: int, next_off: int, batch: dict[int, Command], worker: int, room: int
    ):
        """Return (claims, ended, woken, cancelled), or what refused the batch: nothing changes."""
        if self.positions[part] != at:
            return "moved", self.positions[part]
        before = copy.deepcopy(self.__dict__)
        ended, reused, cancelled = [], [], []
        for offset, command in batch.items():
            known = self.commands.get(command.turn)
            if command.kind == "cancel":
                ours = known is None or known.thread == command.thread
                if ours and self._took(command, ended):
                    cancelled.append(command.thread)
            elif known is None:
                self.commands[command.turn] = command
                if self._took(command, ended):
                    cancelled.append(command.thread)
            elif known != command:
                reused.append(offset)
        if reused:
            self.__dict__.update(before)
            return "reused", tuple(reused)
        self.positions[part] = next_off
        idle = [
            key
            for key in dict.fromkeys(command.thread for command in batch.values())
            if key in self.threads and self.made[key].rows.owner is None
            and self.made[key].ready is None
        ]  # fmt: skip
        given, woken = self.claim(idle, worker, room)
        return given, ended, woken, list(dict.fromkeys(cancelled))

    def _took(self, command: Command, ended: list[str]) -> bool:
        """Take one command in; tell whether it stops the head. Adds to `ended` what it ends."""
        key = command.thread
        rows = Ledger([], attempts_max=DECIDED, timeline=self.timeline)
        thread = self.made.setdefault(key, Thread(rows))
        causes = len(thread.head.causes) if thread.head else 0
        asked = command.modelled()
        if isinstance(asked, Cancel):
            ended += admission.cancel_turn(thread.rows, asked)
        else:
            over = admission.insert_turn(thread.rows, asked)
            ended += over
            if command.expires and not over:
                self.expiries.add((command.turn, "turn"))
        return thread.head is not None and len(thread.head.causes) > causes

    # claims

    def wait(self, key: str) -> None:
        """Put a thread behind those that wait in ready."""
        self.waits += 1
        thread = self.made[key]
        thread.rows.ready = True
        if thread.ready is None:
            thread.ready = self.waits

    def claim(self, keys: list[str], worker: int, room: int):
        """Return (claims, woken): the threads beyond the worker's room wait in ready."""
        given, woken = [], []
        if worker not in self.workers:
            room = 0
        for key in keys:
            thread = self.made[key]
            if thread.rows.owner is not None or not thread.rows.runnable():
                continue
            if len(given) == room:
                self.wait(key)
                woken.append(key)
                continue
            row = thread.head
            suspect = row is not None and not row.outcome and row.attempts >= SUSPECT
            parked = suspect and row.attempts >= PARKED
            if suspect and not parked and not self._take_suspect(worker, key):
                self.wait(key)
                continue
            given.append(self._claimed(key, thread, worker, parked=parked))
        return given, woken

    def _claimed(self, key: str, thread: Thread, worker: int, *, parked: bool):
        if thread.head is None:
            self._settle(thread, thread.rows.waiting()[0])
        one = claims.take(thread.rows, worker)
        thread.ready, thread.last = None, thread.rows.turns[one.turn]
        why = thread.why.get(one.turn, "")
        said = thread.status(thread.last)
        return (
            key, one.turn, one.epoch, one.origin, f"{said} {why}" if why else said, thread.cancel,
            one.again, thread.told, thread.attempts, parked,
        )  # fmt: skip

    def _take_suspect(self, worker: int, key: str) -> bool:
        """Tell whether the worker may run this suspect: it runs one at a time."""
        held = self.made.get(self.suspects.get(worker, ""))
        if held and held.rows.owner == worker and held.attempts > SUSPECT:
            return False
        self.suspects[worker] = key
        return True

    def _settle(self, thread: Thread, row: Turn) -> None:
        """Say by the ids of a first claim's answers whether it names the turn that asks (W1)."""
        command, asks = self.commands[row.turn], thread.rows.asks
        ids, actor, revs = thread.ids, "superseded", len(thread.ids)
        if command.kind == "resume":
            ids, actor = command.answers, "ann"
            if asks and ids and set(ids) <= set(thread.ids):
                row.resumes = asks[0]
            else:
                late = set(ids) & thread.expired
                thread.why[row.turn] = "expired" if late else "unknown"
                ids, revs = (), 0
        rev = max(thread.rev, self.timeline * LIFE)
        thread.told = tuple((id_, rev + i, actor) for i, id_ in enumerate(ids, 1))
        # a resume takes a rev for each open question, answered or not
        thread.rev = rev + revs
        if ids:
            thread.ids = ()

    # attempts

    def own(self, key: str, epoch: int) -> Thread | None:
        """Return the thread, if the attempt holds it."""
        thread = self.made.get(key)
        current = thread and thread.rows.epoch == epoch and epoch // LIFE == self.timeline
        return thread if current and thread.head else None

    def over(self, key: str, epoch: int) -> bool:
        """Tell whether this attempt ended its turn, so that it writes nothing any more."""
        thread = self.made.get(key)
        if not thread or thread.rows.epoch != epoch:
            return False
        return thread.head is None or bool(thread.head.outcome)

    def end(
        self, key: str, epoch: int, turn: str, kind: str, asks: tuple[str, ...], *, expires: bool
    ) -> str:
        """Store an outcome; return "", "fenced", or the cause that the outcome yields to."""
        thread = self.made.get(key)
        if thread is None:  # lost by a restore
            return "fenced"
        try:
            commits.commit_outcome(thread.rows, epoch, turn, Outcome(kind), 0, frozenset(asks))
        except Fenced:
            return "fenced"
        except CancelAhead:
            return thread.cancel or ""
        if not asks:
            thread.shut()
        thread.ids = asks
        if asks and expires:
            self.expiries.add((turn, "interrupt"))
        return ""

    def step(self, key: str, epoch: int, turn: str, checkpoint: str) -> bool:
        """Commit a checkpoint, with one task's writes; tell whether the attempt may."""
        if key not in self.made:  # lost by a restore
            return False
        rows = self.made[key].rows
        try:
            commits.put_write(rows, Write(turn, epoch, checkpoint, rows.state, ()), 0)
            commits.commit_step(rows, epoch, turn, 0, last=False)
        except Fenced:
            return False
        return True

    def finish(self, worker: int, room: int, items: list[tuple[str, int]]):
        """Close turns; return the claims of their threads' next turns."""
        keys = []
        for key, epoch in items:
            thread = self.own(key, epoch)
            if thread and thread.head.outcome:
                claims.finish(thread.rows, epoch, thread.rows.head, 0, None)
                thread.rows.ready = False
                thread.ready, thread.told = None, ()
                keys.append(key)
        return self.claim(keys, worker, room)[0]

    def release(self, key: str, epoch: int) -> bool:
        """Give a thread back in the middle of its turn; tell whether it was the attempt's."""
        thread = self.own(key, epoch)
        if not thread or thread.rows.owner is None:
            return False
        claims.release(thread.rows, epoch, thread.rows.head)
        self.wait(key)
        return True

    # what workers poll for

    def reclaim(self, worker: int, room: int):
        """Claim threads that wait in ready, those that wait longest first."""
        if worker not in self.workers:
            return []
        waiting = [key for key, thread in self.threads.items() if thread.ready is not None]
        keys = sorted(waiting, key=lambda key: self.made[key].ready)[:room]
        for key in keys:
            self.made[key].ready, self.made[key].rows.ready = None, False
        return self.claim(keys, worker, room)[0]

    def reap(self, worker: int, *, counts: bool) -> None:
        """Take its threads from a worker whose lease is over."""
        self.workers.discard(worker)
        self.suspects.pop(worker, None)
        for key in sorted(self.made):
            thread = self.made[key]
            if thread.rows.owner == worker:
                claims.reap(thread.rows)
                thread.last.attempts -= not counts
                self.wait(key)

    def expire(self, due: list[tuple[str, str]]):
        """Return (ended, cancelled): what becomes of turns and questions whose time is over."""
        ended, cancelled = [], []
        for name, what in due:
            self.expiries.discard((name, what))
            key = self.commands[name].thread
            thread = self.made[key]
            row = thread.rows.turns[name]
            if what == "interrupt":
                if thread.rows.asks and thread.rows.asks[0] == name:
                    thread.rev = max(thread.rev, self.timeline * LIFE) + len(thread.ids)
                    thread.expired |= set(thread.ids)
                    thread.shut()
            elif row.outcome:
                pass
            elif thread.rows.head == name:
                admission.stop(row, "expired")
                cancelled.append(key)
            else:
                row.outcome = Outcome("failed")
                ended.append(name)
        return ended, list(dict.fromkeys(cancelled))

    def unclaimed(self) -> set[str]:
        """Return the turns that ended unclaimed and are not closed."""
        return {
            row.turn
            for _, _, row in self.turns
            if row.outcome and not row.started and not row.closed
        }

    def close_ended(self, name: str, timeline: int) -> None:
        """Close a turn whose unclaimed end is in the log, if its timeline is still the ledger's."""
        rows = self.made[self.commands[name].thread].rows
        admission.close_ended(rows, name, timeline, 0)
