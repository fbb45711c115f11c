"""The modelled attempt: one worker's hold on one turn, from the fence to the finish (W2 to W9).

What the project runs: `streams/worker/attempt.py`, `connectors/postgres/checkpoints/commits.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.model import tasks
from tests.model.claims import finish, release
from tests.model.commits import commit_outcome, commit_step
from tests.model.ledger import CancelAhead
from tests.model.process import Process, Thread, in_flight
from tests.model.records import Envelope, Outcome, said, started, terminal, text_of
from turnstream.schemas.fold.fold import covers, is_kept

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.model.process import Moves
    from tests.model.rows import Claim, Nested, Write
    from tests.model.tasks import Spec
    from turnstream.schemas.records.events import Event, Keep


class Attempt(Process):
    """One hold on the thread.

    Two attempts of one worker are two processes here: their records may land in any order, which
    covers all that a producer shared by them could do.
    """

    failed = release_asked = lease_over = False

    def begin(self, claim: Claim) -> None:
        """Start on what was claimed."""
        self.claim, self.turn, self.epoch = claim, claim.turn, claim.epoch
        self.n, self.keep, self.state = claim.high_n, claim.keep, claim.state
        self.pending: dict[str, Write] = dict(claim.pending)
        self.nested: dict[str, Nested] = dict(claim.nested)
        self.visible = list(claim.events)
        self.base: object = None
        self.ended: dict[str, str] = {}
        self.asks: set[str] = set()
        self.world.note_claim(claim)
        self.start(self.run())

    def run(self) -> Moves[None]:
        """The attempt from its first record on."""
        yield None
        self.publish(started(self.claim))  # W2
        yield None
        outcome = self.claim.outcome  # W3
        if outcome is None:
            outcome = yield from self._run_turn()
            if outcome is None:
                return
        self.publish(terminal(Envelope(self.turn, self.epoch, self.n + 1), outcome))  # W8
        yield self.acked()
        heir = None if self.release_asked else self.world.worker_with_room()
        claim = finish(self.ledger, self.epoch, self.turn, len(self.world.log), heir)  # W9
        if claim is not None and heir is not None:
            heir.begin(claim)

    def _run_turn(self) -> Moves[Outcome | None]:
        """W4 to W7: return the outcome, or None after a release."""
        plan, step = self.world.plans[self.claim.origin], self.claim.step
        while True:
            self.base, self.ended, self.asks = self.state, {}, set()
            if not self._stopped():
                number = sum(entry.text is None for entry in self.state) + 1
                self.spawn(f"{number}", plan[step], self.base)
                yield lambda: len(self.threads) == 1 or self._stopped() or self.release_asked
            if self.release_asked:
                release(self.ledger, self.epoch, self.turn)
                self.stop("")
                return None
            last = step + 1 == len(plan)
            outcome: Outcome | None
            try:
                if self._stopped() or self.asks:
                    outcome = yield from self._end_early()
                else:
                    n = self.n
                    yield self.acked()
                    self.state, outcome = commit_step(
                        self.ledger, self.epoch, self.turn, n, last=last
                    )
                    self.pending, self.nested, self.keep = {}, {}, ()
                    step += 1
            except CancelAhead:
                continue
            yield None
            if outcome is not None:
                return outcome

    def _stopped(self) -> bool:
        row = self.ledger.turns.get(self.turn)
        return self.failed or (row is not None and bool(row.cancel))

    def _end_early(self) -> Moves[Outcome]:
        """W7 for a turn that is stopped, that failed, or that asks."""
        row = self.ledger.turns.get(self.turn)
        cause = row.cancel if row is not None else ""
        kind = cause or ("failed" if self.failed else "interrupted")
        self.stop("")
        n = self.n
        yield self.acked()
        outcome = Outcome(kind, "" if kind == "rollback" else text_of(self.visible))
        asks = frozenset(self.asks)
        return commit_outcome(self.ledger, self.epoch, self.turn, outcome, n, asks)

    # -- what the tasks call

    def spawn(self, prefix: str, specs: Sequence[Spec], base: object) -> None:
        """Run the tasks of a step that have no pending write (W4)."""
        for letter, spec in zip("abc", specs, strict=False):
            path = f"{prefix}{letter}"
            if path in self.pending:
                self.ended[path] = "done"
            else:
                self.ended.pop(path, None)
                self.threads.append(Thread(tasks.run(self, path, spec, base), path))

    def stop(self, under: str) -> None:
        """Stop the tasks whose path begins so; a transaction that was sent goes through."""
        for thread in self.threads:
            if thread is not self.main and thread.path.startswith(under):
                thread.stopped = True
        self.threads = [t for t in self.threads if not t.stopped or t.condition is in_flight]

    def say(self, path: str, text: str) -> Event:
        """Take the next `n` and hand the record to the producer, in one step (W4)."""
        self.n += 1
        event = said(Envelope(self.turn, self.epoch, self.n, path), text)
        self.visible.append(event)
        self.publish(event)
        return event

    def take_back(self, path: str, keep: Sequence[Keep]) -> None:
        """Forget what a task has said, except what is kept (F4)."""
        self.visible = [
            event
            for event in self.visible
            if not covers(path, event.path) or is_kept(event.path, event.n, keep)
        ]
