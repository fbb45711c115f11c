"""How long readers waited after a fault, and for how long two workers took a thread for theirs."""

from __future__ import annotations

import json
from datetime import datetime
from typing import TYPE_CHECKING

from turnstream.schemas.fold.fold import Verdict
from turnstream.schemas.records.events import AttemptStarted, TokensEmitted

if TYPE_CHECKING:
    from tests.chaos.played import Hit, Played
    from tests.chaos.stage import RealStage


_STRUCK_S = 2.0
"""After a blow that harms servers: a silence that begins so soon after is its work."""


def measure(played: Played, stage: RealStage) -> None:
    """Fill in the hits' recovery and overlap."""
    for hit in played.hits:
        hit.alone = len(played.hits) == 1
        if not hit.worker:
            hit.next_token_s = _silence(played, hit)
            continue
        threads = [hit.thread] if hit.thread else _owned_by(played, hit)
        waits = [w for thread in threads if (w := _next_token(played, thread, hit)) is not None]
        hit.next_token_s = max(waits, default=None)
        if hit.fault.startswith(("freeze", "block")):
            hit.overlap_s = _overlap(played, stage, hit)


def _owned_by(played: Played, hit: Hit) -> list[str]:
    """The threads on which the struck worker had the last attempt then."""
    owned = []
    for thread, log in played.logs.items():
        starts = [e for e in log.entries if isinstance(e.record, AttemptStarted) and e.at < hit.at]
        if starts and starts[-1].record.worker == hit.worker:
            owned.append(thread)
    return owned


def _next_token(played: Played, thread: str, hit: Hit) -> float | None:
    """From the blow to the next token of a later attempt at the turn it fell on; None: none."""
    again: str | None = None
    for entry in played.logs[thread].entries:
        if entry.at < hit.at:
            continue
        record, accepted = entry.record, entry.change.verdict is not Verdict.IGNORED
        if isinstance(record, AttemptStarted) and record.worker != hit.worker and accepted:
            again = record.turn_id
        elif again is not None and accepted and isinstance(record, TokensEmitted):
            return entry.at - hit.at if record.turn_id == again else None
        elif again is not None and accepted and getattr(record, "terminal", False):
            return None
    return None


def _silence(played: Played, hit: Hit) -> float | None:
    """From the blow to the next record of a turn that was running, the turn that waited longest.

    Of faults that strike no single worker. Silences that begin within `_STRUCK_S` count too.
    """
    waits = []
    for log in played.logs.values():
        before: dict[str, float] = {}
        for entry in log.entries:
            turn, at = entry.record.turn_id, entry.at
            began = before.get(turn)
            if began is not None and at > hit.at and began < hit.at + _STRUCK_S:
                waits.append(at - max(began, hit.at))
            before[turn] = at
    return max(waits, default=None)


def _overlap(played: Played, stage: RealStage, hit: Hit) -> float:
    """From the next owner's fence until the struck worker knew that its lease was lost."""
    fences = [
        e.at
        for log in played.logs.values()
        for e in log.entries
        if isinstance(e.record, AttemptStarted) and e.at > hit.at and e.record.worker != hit.worker
    ]
    path = stage.folder / f"{hit.worker}.log"
    if not fences or not path.exists():
        return 0.0
    for line in path.read_text().splitlines():
        if '"lease_lost"' in line:
            lost = datetime.fromisoformat(json.loads(line)["at"]).timestamp()
            if lost > hit.at:
                return max(0.0, lost - min(fences))
    return 0.0
