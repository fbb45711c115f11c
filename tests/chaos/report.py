"""A campaign's report, as JSON and as Markdown; figures are raw counts."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections import Counter, defaultdict
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from tests.bench.machine import percentiles
from tests.chaos.invariants import TITLES
from tests.chaos.points import POINTS

if TYPE_CHECKING:
    from pathlib import Path

    from tests.chaos.campaign import Tally
    from tests.chaos.played import Hit

BOUNDS_S = (0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.5, 10.0)
"""Upper bounds of the recovery histogram's rows, in seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """Under which a campaign was run."""

    command: str
    began: str
    commit: str
    servers: str
    stages: int
    wall_s: float
    others_share: float
    """Of the machine's CPU, what processes that are not the campaign's used (0 to 1)."""


def report_of(tally: Tally, conditions: Conditions) -> dict[str, Any]:
    """Return everything that was counted, as plain data."""
    hits = Counter(hit.fault for hit in tally.hits)
    points: Counter[str] = Counter()
    for hit in tally.hits:
        points[hit.fault.partition("@")[2]] += "@" in hit.fault
    waits: dict[str, list[float]] = defaultdict(list)
    for hit in tally.hits:
        if hit.next_token_s is not None:
            waits[_class_of(hit)].append(round(hit.next_token_s, 3))
    return {
        "conditions": asdict(conditions)
        | {
            "python": sys.version.split()[0],
            "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        },
        "runs": tally.runs,
        "turns": tally.turns,
        "failed runs": len(tally.failed),
        "invariants": {
            str(number): {"title": title, "broken in runs": tally.broken[number]}
            for number, title in TITLES.items()
        },
        "hits": dict(sorted(hits.items())),
        "drawn": dict(sorted(tally.drawn.items())),
        "hits per crash point": {point: points[point] for point in POINTS},
        "kinds of turns": dict(sorted(tally.kinds.items())),
        "ends": dict(sorted(tally.ends.items())),
        "attempts of a turn": {str(n): count for n, count in sorted(tally.attempts.items())},
        "rewinds seen": tally.rewinds,
        "tasks tried again": tally.retries,
        "void records seen": tally.void_records,
        "reconnects of clients": tally.client_drops,
        "SDK clients whose own request met a dead edge": tally.gave_up,
        "seconds of overlap of two owners": round(sum(h.overlap_s for h in tally.hits), 1),
        "overlaps": sum(hit.overlap_s > 0 for hit in tally.hits),
        "recovery_s": {
            name: {
                "count": len(found),
                "p50": percentiles(found, 0.5)[0],
                "p99": percentiles(found, 0.99)[0],
                "most": max(found),
                "histogram": _histogram(found),
            }
            for name, found in sorted(waits.items())
        },
        "run_s": dict(
            zip(("p50", "p99"), (round(v, 2) for v in percentiles(tally.run_s, 0.5, 0.99)))  # noqa: B905
        ),
        "leaks": tally.leaks,
        "failures": [
            {
                "story": json.loads(failed.story.told()),
                "broken": [one._asdict() for one in failed.broken],
                "shortest": json.loads(failed.shortest.told()) if failed.shortest else None,
            }
            for failed in tally.failed
        ],
    }


def _class_of(hit: Hit) -> str:
    """The row of the recovery table that a hit belongs to."""
    what = hit.fault.partition("@")[0] if "@" in hit.fault else hit.fault
    if what in ("kill", "kill-worker"):
        what = "kill -9, others standing by"
    return what if hit.alone else f"{what}; other faults beside"


def _histogram(waits: list[float]) -> dict[str, int]:
    rows = {f"<= {bound:g}": sum(wait <= bound for wait in waits) for bound in BOUNDS_S}
    below = 0
    for name, upto in rows.items():
        rows[name], below = upto - below, upto
    return {**rows, f"> {BOUNDS_S[-1]:g}": len(waits) - below}


def markdown(report: dict[str, Any]) -> str:
    """Return the report for people."""
    about = report["conditions"]
    lines = [
        "# Fault campaign",
        "",
        f"    {about['command']}",
        "",
        _conditions_told(about),
        "",
        _counts_told(report),
        "",
        *_table("invariant", "broken in runs", report["invariants"], _invariant),
        *_table("crash point", "hits", report["hits per crash point"], _point),
        *_table("fault", "hits", report["hits"]),
        *_table("end", "turns", report["ends"]),
        *_table("attempts", "turns", report["attempts of a turn"]),
        "## From the fault to the next token at the campaign's reader, seconds",
        "",
    ]
    bounds = [f"<= {bound:g}" for bound in BOUNDS_S] + [f"> {BOUNDS_S[-1]:g}"]
    lines += [
        "| fault | count | p50 | p99 | most | " + " | ".join(bounds) + " |",
        "|---" * (5 + len(bounds)) + "|",
    ]
    for name, row in report["recovery_s"].items():
        counts = " | ".join(str(row["histogram"][bound] or "") for bound in bounds)
        lines.append(
            f"| {name} | {row['count']} | {row['p50']:.2f} | {row['p99']:.2f} | {row['most']:.2f}"
            f" | {counts} |"
        )
    lines.append("")
    lines += [f"- 8: {leak}" for leak in report["leaks"]]
    for failure in report["failures"]:
        story = failure["shortest"] or failure["story"]
        lines += [f"## Broken by {failure['story']['seed']}", "", f"    {json.dumps(story)}", ""]
        lines += [f"- {one['invariant']}: {one['what'][:300]}" for one in failure["broken"][:8]]
        lines.append("")
    return "\n".join(lines)


def _conditions_told(about: dict[str, Any]) -> str:
    return (
        f"{about['began']}, commit {about['commit']}, {about['wall_s']:.0f} s,"
        f" {about['stages']} stages on {about['servers']}; {about['machine']},"
        f" Python {about['python']}; other processes used"
        f" {100 * about['others_share']:.0f} % of the machine."
    )


def _counts_told(report: dict[str, Any]) -> str:
    return (
        f"{report['runs']} runs, {report['turns']} turns, {report['failed runs']} runs with a"
        f" broken invariant. Rewinds seen: {report['rewinds seen']}, tasks tried again:"
        f" {report['tasks tried again']}, void records: {report['void records seen']},"
        f" reconnects of clients: {report['reconnects of clients']},"
        f" overlap of two owners: {report['seconds of overlap of two owners']} s in"
        f" {report['overlaps']} hits."
    )


def _invariant(number: str, row: dict[str, Any]) -> tuple[str, Any]:
    return f"{number} {row['title']}", row["broken in runs"]


def _point(name: str, count: int) -> tuple[str, Any]:
    return f"{name}: {POINTS[name]}", count


def _table(
    what: str, counted: str, rows: dict[str, Any], cells: Any = lambda name, count: (name, count)
) -> list[str]:
    found = [cells(name, row) for name, row in rows.items()]
    return [
        f"| {what} | {counted} |",
        "|---|---|",
        *(f"| {name} | {count} |" for name, count in found),
        "",
    ]


def write_report(report: dict[str, Any], path: Path) -> None:
    """Write `<path>.json` and `<path>.md`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n")
    path.with_suffix(".md").write_text(markdown(report))
