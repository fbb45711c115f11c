"""Where a process spends its CPU: `python -m tests.bench.sampler OUT -m MODULE [ARG ...]`.

Runs the module and, between two SIGUSR2, samples the stack once a millisecond of CPU time (not of
wall time, so that waiting for a busy machine does not count). Writes "frame;frame count" lines.
What C code outside of Python takes (the event loop itself) is charged to the callback after it.
"""

from __future__ import annotations

import runpy
import signal
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import FrameType

EVERY_S = 0.001
DEPTH_MAX = 40


class Sampler:
    """Counts stacks, innermost frame first."""

    def __init__(self, out: Path) -> None:
        self._out = out
        self._counts: Counter[tuple[tuple[object, int], ...]] = Counter()
        self._on = False

    def toggle(self, _number: int, _frame: FrameType | None) -> None:
        """Begin, or end and write."""
        self._on = not self._on
        signal.setitimer(signal.ITIMER_PROF, *((EVERY_S, EVERY_S) if self._on else (0.0, 0.0)))
        if not self._on:
            lines = (f"{';'.join(map(_name, s))} {n}\n" for s, n in self._counts.items())
            self._out.write_text("".join(lines))
            self._counts.clear()

    def sample(self, _number: int, frame: FrameType | None) -> None:
        """Take one stack."""
        stack: list[tuple[object, int]] = []
        while frame is not None and len(stack) < DEPTH_MAX:
            stack.append((frame.f_code, frame.f_lineno))
            frame = frame.f_back
        self._counts[tuple(stack)] += 1


def _name(place: tuple[object, int]) -> str:
    code, line = place
    file = "/".join(code.co_filename.split("/")[-2:])
    return f"{code.co_qualname} ({file}:{line})"


def report(path: Path, rows: int) -> list[str]:
    """Return the functions that take most, by themselves and with what they call."""
    own: Counter[str] = Counter()
    whole: Counter[str] = Counter()
    total = 0
    for line in path.read_text().splitlines():
        stack, _, text = line.rpartition(" ")
        count = int(text)
        functions = [frame.rpartition(":")[0] + ")" for frame in stack.split(";")]
        total += count
        own[functions[0]] += count
        for name in set(functions):
            whole[name] += count
    lines = [f"    {'itself':>7} {'with calls':>10}  of {total} samples"]
    lines += [
        f"    {count / total:7.1%} {whole[name] / total:10.1%}  {name}"
        for name, count in own.most_common(rows)
    ]
    lines.append(f"    {'':7} {'with calls':>10}")
    lines += [
        f"    {own[name] / total:7.1%} {count / total:10.1%}  {name}"
        for name, count in whole.most_common(3 * rows)
        if count < 0.9 * total
    ]
    return lines


if __name__ == "__main__":
    sampler = Sampler(Path(sys.argv[1]))
    signal.signal(signal.SIGPROF, sampler.sample)
    signal.siginterrupt(signal.SIGPROF, False)
    signal.signal(signal.SIGUSR2, sampler.toggle)
    module = sys.argv[3]
    sys.argv = [module, *sys.argv[4:]]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
