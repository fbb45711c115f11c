"""The modelled world of one thread: log, ledger, processes, and what is drawn in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeVar

from tests.model.attempt import Attempt
from tests.model.ledger import Ledger
from tests.model.records import Log, Outcome, text_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from random import Random

    from tests.model.process import Process
    from tests.model.rows import Claim, Command
    from tests.model.tasks import Spec
    from turnstream.schemas.records.events import Event

_T = TypeVar("_T")

ATTEMPTS_AT_ONCE = 3


class Client(NamedTuple):
    """A client that begins between two turns: what its edge reads from the ledger (R1, R2)."""

    begins: int
    epoch: int
    timeline: int
    over: tuple[str, ...]


class World:
    """One thread. `plans` are the steps of each turn's graph, `sends` what clients will send."""

    fail_rate = 0.0
    retry_rate = 0.6
    room_rate = 0.7
    tool_honours_key = True
    answers_left = 0
    reports = 0
    clients_left = 0

    def __init__(
        self,
        plans: dict[str, list[list[Spec]]],
        sends: Sequence[tuple[int, Command]],
        rng: Random,
        *,
        partitions: int = 1,
        faults: int = 0,
        restores: int = 0,
    ) -> None:
        self.plans, self.sends, self.rng = plans, list(sends), rng
        self.ledger = Ledger([0] * partitions, snapshots=[] if restores else None)
        self.log: Log = []
        self.input: list[list[Command]] = [[] for _ in range(partitions)]
        self.processes: list[Process] = []
        self.faults, self.restores, self.restored = faults, restores, False
        self.claims: dict[int, tuple[str, Outcome | None]] = {}
        self.deciders: dict[int, int] = {}
        self.commits: list[tuple[str, int, tuple[Event, ...]]] = []
        self.effects: dict[tuple[str, str], int] = {}
        self.asked: list[str] = []
        self.loose: list[Event] = []
        self.clients: list[Client] = []

    def pick(self, options: Sequence[_T]) -> _T:
        """Choose one."""
        return self.rng.choice(options)

    def chance(self, probability: float) -> bool:
        """Throw a coin."""
        return self.rng.random() < probability

    def event_count(self) -> int:
        """Return how many events a task says first."""
        return self.pick((0, 1, 1, 2))

    def task_fails(self) -> bool:
        """Tell whether a task fails now."""
        return self.fail_rate > 0 and self.chance(self.fail_rate)

    def retries(self) -> bool:
        """Tell whether a task that failed runs again."""
        return self.chance(self.retry_rate)

    def attempts(self) -> list[Attempt]:
        """Return the attempts that live."""
        return [p for p in self.processes if isinstance(p, Attempt) and p.threads]

    def worker_with_room(self) -> Attempt | None:
        """Return a new attempt, for a claim, if a worker has room."""
        room = len(self.attempts()) < ATTEMPTS_AT_ONCE and self.chance(self.room_rate)
        return Attempt(self) if room else None

    def note_claim(self, claim: Claim) -> None:
        """Note what readers must show once this attempt's start counts."""
        outcome = claim.outcome
        text = text_of(claim.events)
        if outcome is not None and outcome.text and outcome.kind != "completed":
            text = outcome.text
        self.claims[claim.epoch] = text, outcome
        if outcome is not None and not claim.decided_by_claim:
            self.deciders[claim.epoch] = claim.base

    def unclaimed(self) -> list[str]:
        """Return the turns that ended unclaimed and are not closed; a claimed one has an owner."""
        return [
            name
            for name, turn in self.ledger.turns.items()
            if turn.outcome and not turn.closed and not turn.started
        ]

    def act(self, call: tuple[str, str]) -> str:
        """Have a tool take effect outside: once only, if it honours its idempotency key."""
        self.effects[call] = 1 if self.tool_honours_key else self.effects.get(call, 0) + 1
        return f"result of {call}"

    def settle(self) -> None:
        """Note the question that is open, and forget processes that can do nothing any more."""
        if self.ledger.asks is not None and self.ledger.asks[0] not in self.asked:
            self.asked.append(self.ledger.asks[0])
        owner = self.ledger.owner
        self.processes = [p for p in self.processes if p.threads or p.queue or p is owner]
