"""Errors of the ledger: transactions that compare nothing, admission, claims (G1, G3, A1 to A5)."""

from __future__ import annotations

from tests.model import admission, claims, commits, moves
from tests.model.ledger import Ledger
from tests.model.planting import Plant, plant
from tests.model.process import Intake, Process
from tests.model.tasks import _body
from tests.model.world import World

_OTHER_TIMELINE = " or epoch // LIFE != self.timeline"
_DRAWN_BEFORE = """first = ledger.seq + 1
        ledger.seq += len(batch)
        yield None
        ledger.drawn = list(range(first, first + len(batch)))"""
_LOOKED_BEFORE = """idle = ledger.owner is None and not ledger.runnable()
        yield None
        ledger.idle = idle"""

PLANTS: dict[str, Plant] = {
    # the fence: an attempt's transactions
    "writes-unfenced": plant("G1", 17, (commits.put_write, "ledger.compare(write.epoch)", "pass")),
    "nested-unfenced": plant("G1", 747, (commits.put_nested, "ledger.compare(epoch)", "pass")),
    "step-unfenced": plant("G1", 45, (commits.commit_step, "ledger.compare(epoch)", "pass")),
    "outcome-unfenced": plant("G1", 11, (commits.commit_outcome, "ledger.compare(epoch)", "pass")),
    "finish-unfenced": plant("G1", 190, (claims.finish, "ledger.compare(epoch)", "pass")),
    "release-unfenced": plant("G1", 6, (claims.release, "ledger.compare(epoch)", "pass")),
    "tool-start-unfenced": plant("G1", 45, (commits.start_tool, "ledger.compare(epoch)", "pass")),
    "tool-end-unfenced": plant("G1", 407, (commits.end_tool, "ledger.compare(epoch)", "pass")),
    "compared-before-the-write": plant(
        "G1",
        38,
        (commits.put_write, "ledger.compare(write.epoch)", "pass"),
        (
            _body,
            "yield in_flight\n",
            "yield in_flight\n    attempt.ledger.compare(attempt.epoch)\n    yield in_flight\n",
        ),
    ),
    "timeline-not-compared": plant("G1", 11, (Ledger.compare, _OTHER_TIMELINE, "")),
    "epochs-without-timeline": plant(
        "G3",
        11,
        (Ledger.above, "max(value, self.timeline * LIFE) + 1", "value + 1"),
        (Ledger.compare, _OTHER_TIMELINE, ""),
        (Ledger.witness, _OTHER_TIMELINE, ""),
    ),
    # admission
    "greater-position": plant(
        "A1",
        555,
        (admission.admit, "if ledger.positions[partition] != at:", "if False:"),
        (
            admission.admit,
            "ledger.positions[partition] = at + len(batch)",
            "ledger.positions[partition] = max(ledger.positions[partition], at + len(batch))",
        ),
    ),
    "position-outside-the-ledger": plant(
        "A1",
        11,
        (Ledger.restore, "timeline, broken =", "positions, timeline, broken = self.positions,"),
        (
            Ledger.restore,
            "self.timeline, self.broken,",
            "self.positions = positions\n    self.timeline, self.broken,",
        ),
    ),
    "no-seek-after-a-restore": plant(
        "A1",
        46,
        (Intake.run, "len(commands) or ledger.timeline != self.timeline", "len(commands)"),
        (Intake.run, "if ledger.timeline != self.timeline:", "if False:"),
    ),
    "turn-admitted-twice": plant(
        "A2", 29, (admission.admit, "elif command.turn not in ledger.turns:", "else:")
    ),
    "seq-drawn-before-the-lock": plant(
        "A2",
        242,
        (Intake.run, "yield None", _DRAWN_BEFORE),
        (admission.insert_turn, "ledger.seq += 1", "pass"),
        (admission.insert_turn, "ledger.seq,", "ledger.drawn.pop(0),"),
    ),
    "queued-at-the-end": plant(
        "A2", 20, (admission.insert_turn, 'start.policy in ("interrupt", "rollback"),', "False,")
    ),
    "early-cancel-forgotten": plant(
        "A3", 8, (admission.insert_turn, "if row.turn in ledger.early:", "if False:")
    ),
    "rollback-overridden": plant(
        "A3", 84, (admission.stop, 'cause if cause == "rollback" else row.cancel or cause', "cause")
    ),
    "idle-looked-at-before-the-lock": plant(
        "A4",
        26,
        (Intake.run, "yield None", _LOOKED_BEFORE),
        (admission.admit, "if ledger.owner is None and not ledger.ready and", "if ledger.idle and"),
    ),
    "left-without-ready": plant("A4", 0, (admission.admit, "ledger.ready = True", "pass")),
    "end-without-timeline": plant("A5", 2775, (Process.end_unclaimed, "timeline * LIFE", "1")),
    "end-closed-before-its-ack": plant(
        "A5", 11, (Process.end_unclaimed, "yield self.acked()", "yield None")
    ),
    "no-sweep": plant("A5", 37, (moves._of_ledger, "if world.unclaimed():", "if False:")),
    "sweep-of-claimed-turns": plant("A5", 0, (World.unclaimed, " and not turn.started", "")),
}
