"""The table "capacity": how many streams of 50 tok/s stay within 100 ms, all in one run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.bench.load import Brought, Published, Theirs, run
from tests.bench.machine import percentiles
from tests.bench.rows import judge, line, ms

if TYPE_CHECKING:
    from tests.bench.load import Ours
    from tests.bench.stacks import Bench

ADDED_MAX_S = 0.1
PACED = "tokens=100 rate=50 ttft=0.2 stamp=1"
STEPS = (5, 10, 15, 20, 30, 45, 60, 75, 90, 110, 140, 180)


async def capacity(bench: Bench, seconds: float) -> int:
    """Return how many streams failed."""
    print(f"\ncapacity (streams of 50 tok/s with p99 added < 100 ms, {seconds:.0f} s a step)")
    ours, template = bench.pids, bench.template_pids
    failed = 0
    for name, kind, port, pids, aim in (
        ("built-in agent", Published, bench.edge_port, ours, 90),
        ("brought graph", Brought, bench.edge_port, ours, 20),
        ("template", Theirs, bench.template_port, template, 20),
    ):
        most, seen, errors = await _most(kind, port, pids, seconds)
        verdict = "the baseline" if kind is Theirs else judge(most, None, aim, more=True)
        line(f"{name} (p99 in ms: {seen})", f"{most}", "-", f"{aim}", verdict)
        failed += errors
    return failed


async def _most(
    kind: type[Ours | Theirs], port: int, pids: dict[str, int], seconds: float
) -> tuple[int, str, int]:
    """Return the most streams that were within the bound, what was seen, and the errors."""
    most, seen, errors = 0, [], 0
    for streams in STEPS:
        row = await run(kind, port, pids, streams=streams, text=PACED, ttft_s=0.2, seconds=seconds)
        (p99,) = percentiles(row.latencies, 0.99)
        seen.append(f"{streams}: {ms(p99 * 1e3)}, others {row.usage.others_share:.0%}")
        errors += len(row.errors)
        if not p99 < ADDED_MAX_S:
            break
        most = streams
    return most, "; ".join(seen[-3:]), errors
