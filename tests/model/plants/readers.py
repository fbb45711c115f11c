"""Errors of readers, in the project's own code.

`schemas/fold/fold.py` and `streams/edge/follow/reader.py`.
"""

from __future__ import annotations

from tests.model import readers
from tests.model.planting import Plant, plant
from turnstream.schemas.fold import fold
from turnstream.schemas.fold.fold import ThreadFold
from turnstream.streams.edge.follow.reader import Reader

_OLD = "if record.epoch <= view.epoch:"
_DONE = "if view.done and epoch >> TIMELINE_BITS <= view.epoch >> TIMELINE_BITS:"

PLANTS: dict[str, Plant] = {
    "old-start-counts": plant("F1", 0, (fold._start, _OLD, "if False:")),
    "keep-n-keeps-nothing": plant("F1", 30, (fold._start, "item.n <= record.keep_n or ", "")),
    "keep-keeps-nothing": plant(
        "F1", 13, (fold._start, " or is_kept(item.path, item.n, record.keep)", "")
    ),
    "keep-without-n": plant("F1", 152, (fold.is_kept, "n <= entry.n and ", "")),
    "base-not-compared": plant("F1", 5384, (fold._start, "record.base > view.epoch or ", "")),
    "end-said-again-is-shown": plant(
        "F1", 46, (fold._start, "if view.done and decides == view.decides:", "if False:")
    ),
    "decided-by-itself": plant(
        "F1",
        46,
        (fold._start, 'record.base or record.epoch if record.reason == "decided" else ', ""),
    ),
    "old-event-counts": plant("F2", 0, (fold.apply_to_turn, "if epoch < view.epoch:", "if False:")),
    "new-event-is-void": plant(
        "F2",
        0,
        (
            fold.apply_to_turn,
            "if epoch > view.epoch:",
            "if epoch > view.epoch:\n        return Verdict.IGNORED, _NONE\n    if False:",
        ),
    ),
    "duplicate-counts": plant(
        "F2", 0, (fold.apply_to_turn, "if record.n <= view.last_n:", "if False:")
    ),
    "done-is-not-final": plant("F3", 9394, (fold.apply_to_turn, _DONE, "if False:")),
    "done-is-final-for-ever": plant("F3", 34, (fold.apply_to_turn, _DONE, "if view.done:")),
    "rolled-back-is-shown": plant(
        "F3", 4, (fold.rolled_back, "return isinstance", "return False and isinstance")
    ),
    "retry-takes-back-nothing": plant(
        "F4", 22, (fold._take_back, "back = covers", "back = False and covers")
    ),
    "retry-takes-back-what-is-kept": plant(
        "F4", 65, (fold._take_back, " and not is_kept(item.path, item.n, record.keep)", "")
    ),
    "unclaimed-end-counts-twice": plant("F5", 6722, (fold._end, _OLD, "if False:")),
    "unclaimed-end-said-again-is-shown": plant(
        "F5", 46, (fold._end, "if isinstance(end, TurnEnded) and", "if False and")
    ),
    "old-rev-counts": plant(
        "F6",
        0,
        (ThreadFold._thread_event, "if old is not None and record.rev <= old.rev:", "if False:"),
    ),
    "last-epoch-not-told": plant(
        "R1", 91, (readers.fence_of, "client.epoch + 1 if client.epoch else 0", "0")
    ),
    "last-epoch-not-used": plant(
        "R1", 91, (Reader._is_void, "return record.epoch < self._fence and", "return False and")
    ),
    "unclaimed-ends-not-told": plant("R2", 47, (readers.over_of, "client.over", "()")),
    "unclaimed-ends-not-used": plant(
        "R2",
        47,
        (
            Reader._is_void,
            "if record.epoch >> TIMELINE_BITS <= self._over.get(record.turn_id, -1):",
            "if False:",
        ),
    ),
}
