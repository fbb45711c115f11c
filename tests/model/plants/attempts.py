"""Errors of attempts: what they publish, what they wait for, and how they end (G2, W1 to W12)."""

from __future__ import annotations

from tests.model import claims, commits, happen, ledger, records, tasks
from tests.model.attempt import Attempt
from tests.model.planting import Plant, plant

_N_BEFORE = "n = attempt.n\n    yield attempt.acked()\n"
_TAKEN_APART = """from tests.model.records import said
        attempt.n += 1
        event = said(Envelope(attempt.turn, attempt.epoch, attempt.n, path), text)
        yield None
        attempt.visible.append(event)
        attempt.publish(event)
        own.append(event)"""
_OWN_RECORDS = """mark = max([at for at, one in attempt.queue if one.path == path], default=0)
    yield lambda: not attempt.queue or attempt.queue[0][0] > mark
"""
_SAID_FIRST = """n = self.n
    said_first = Outcome(kind, text_of(self.visible))
    self.publish(terminal(Envelope(self.turn, self.epoch, self.n + 1), said_first))
"""
_KEPT_BY_NOBODY = """_ = keep_path(row, path + "|", n)
    row.keep = row.keep[:-1]
    return new, row.keep"""

PLANTS: dict[str, Plant] = {
    "records-out-of-order": plant(
        "G2", 0, (happen.land, "pop(0)", "pop(world.rng.randrange(len(process.queue)))")
    ),
    "n-taken-apart": plant(
        "G2", 0, (tasks._body, "own.append(attempt.say(path, text))", _TAKEN_APART)
    ),
    # the claim
    "question-left-open": plant(
        "W1", 1651, (claims._begin, "ledger.asks = None\n    elif", "pass\n    elif")
    ),
    "any-answer-taken": plant("W1", 5, (claims._begin, " and ledger.asks[0] == row.resumes", "")),
    "writes-of-the-turn-alone": plant(
        "W1",
        1,
        (
            claims.take,
            "in ledger.pending.items() if origin == row.origin",
            "in ledger.pending.items() if origin == row.turn",
        ),
    ),
    "writes-of-every-chain": plant(
        "W1",
        3,
        (
            claims.take,
            "in ledger.pending.items() if origin == row.origin",
            "in ledger.pending.items()",
        ),
    ),
    # the start
    "start-without-keep": plant("W2", 13, (records.started, "list(claim.keep)", "[]")),
    "start-without-base": plant("W2", 46, (records.started, "base=claim.base", "base=0")),
    "numbers-used-again": plant(
        "W2",
        13,
        (Attempt.begin, "claim.high_n", "claim.keep_n"),
        (records.started, "high_n=claim.high_n", "high_n=claim.keep_n"),
    ),
    "decided-not-said": plant("W2", 46, (records.started, '"decided" if by_attempt else ', "")),
    "decided-by-the-ledger": plant(
        "W2", 1637, (records.started, " and not claim.decided_by_claim", "")
    ),
    "decided-again": plant(
        "W3",
        4,
        (Attempt.run, "if outcome is None:\n        outcome =", "if True:\n        outcome ="),
    ),
    "finished-tasks-run-again": plant(
        "W4", 1, (Attempt.spawn, "if path in self.pending:", "if False:")
    ),
    "nested-graph-begins-anew": plant("W4", 40, (Attempt.begin, "dict(claim.nested)", "{}")),
    # commits
    "writes-without-acks": plant("W5", 0, (tasks._body, "yield attempt.acked()", "yield None")),
    "own-acks-alone": plant("W5", 20, (tasks._body, "yield attempt.acked()\n", _OWN_RECORDS)),
    "n-after-the-wait": plant(
        "W5", 300, (tasks._body, _N_BEFORE, "yield attempt.acked()\n    n = attempt.n\n")
    ),
    "high-n-falls": plant("W5", 2235, (ledger.note_said, "max(row.high_n, n)", "n")),
    "nested-without-acks": plant(
        "W5n", 1517, (tasks._inner, "yield attempt.acked()", "yield None")
    ),
    "nested-moves-keep-n": plant(
        "W5n",
        13,
        (
            commits.put_nested,
            "note_said(row, epoch, n)",
            "note_said(row, epoch, n)\n    row.keep_n = n",
        ),
    ),
    "nested-keeps-nothing": plant(
        "W5n",
        65,
        (commits.put_nested, 'return new, keep_path(row, path + "|", n)', _KEPT_BY_NOBODY),
    ),
    "nested-keeps-its-task": plant(
        "W5n", 25, (commits.put_nested, 'keep_path(row, path + "|", n)', "keep_path(row, path, n)")
    ),
    "step-without-acks": plant("W6", 5903, (Attempt._run_turn, "yield self.acked()", "yield None")),
    "outcome-without-acks": plant(
        "W7", 30, (Attempt._end_early, "yield self.acked()", "yield None")
    ),
    "tasks-not-stopped": plant("W7", 15, (Attempt._end_early, 'self.stop("")', "pass")),
    "outcome-yields-to-nothing": plant(
        "W7", 346, (commits._yield_to_cancel, "asks_in_vain or (", "False and (")
    ),
    # the end
    "terminal-before-the-outcome": plant(
        "W8", 26, (Attempt._end_early, "n = self.n\n", _SAID_FIRST)
    ),
    "closed-before-its-ack": plant("W8", 0, (Attempt.run, "yield self.acked()", "yield None")),
    "handed-to-nobody": plant(
        "W9", 1, (claims.finish, "ledger.ready = bool(ledger.waiting())", "ledger.ready = False")
    ),
    "next-looked-for-before-the-lock": plant(
        "W9",
        489,
        (
            Attempt.run,
            "yield self.acked()",
            "yield self.acked()\n    self.ledger.looked = self.ledger.waiting()\n    yield None",
        ),
        (claims.finish, "bool(ledger.waiting())", "bool(ledger.looked)"),
    ),
    "released-to-nobody": plant("W10", 6, (claims.release, "None, True", "None, False")),
    "retry-not-said": plant("W11", 22, (tasks.run, "attempt.n += 1", "continue")),
    "retry-waits-for-nothing": plant(
        "W11",
        1819,
        (
            tasks.run,
            'yield lambda: not any(t.path.startswith(path + "|") for t in attempt.threads)',
            "yield None",
        ),
    ),
    "retry-keeps-nothing": plant(
        "W11",
        65,
        (tasks.run, "[entry for entry in attempt.keep if covers(path, entry.path)]", "[]"),
    ),
    "reaped-to-nobody": plant("W12", 0, (claims.reap, "None, True", "None, False")),
    # tools
    "call-not-recorded": plant(
        "T1",
        5,
        (
            tasks._call_tool,
            "start_tool(attempt.ledger, attempt.epoch, call)",
            'attempt.ledger.tools.get(call, "")',
        ),
    ),
    "result-not-used": plant(
        "T2", 7, (tasks._call_tool, 'if known not in ("", "started"):', "if False:")
    ),
    "call-of-the-turn-alone": plant(
        "T2",
        215,
        (
            tasks._call_tool,
            "start_tool(attempt.ledger, attempt.epoch, call)",
            "start_tool(attempt.ledger, attempt.epoch, (attempt.turn, path))",
        ),
        (tasks._call_tool, "call, result)", "(attempt.turn, path), result)"),
    ),
    "called-again-without-a-key": plant(
        "T3",
        229,
        (tasks._call_tool, "if known and not attempt.world.tool_honours_key:", "if False:"),
    ),
}
