"""A campaign that hangs says where, and ends."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.chaos.standstill import CODE

ROOT = Path(__file__).parents[2]
CAMPAIGN = """
import asyncio, signal, sys, time
from tests.chaos.standstill import Standstill

async def answer():
    {waits}

async def main():
    with Standstill(stands_s=0.5, end_s=2.0).watched():
        await answer()

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's `&` has it ignored
asyncio.run(main())
"""


def ended(waits: str) -> subprocess.CompletedProcess[str]:
    """Run a loop that waits so."""
    return subprocess.run(
        [sys.executable, "-c", CAMPAIGN.format(waits=waits)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_a_standstill_is_told_and_ended() -> None:
    done = ended("await asyncio.Event().wait()")
    assert done.returncode != 0
    assert "nothing has ended for 0.5 s" in done.stderr
    assert "main:10 > answer:6 > Event.wait" in done.stderr
    assert "KeyboardInterrupt" in done.stderr


def test_a_loop_that_is_blocked_is_told_and_ended() -> None:
    done = ended("time.sleep(60)")
    assert done.returncode == CODE
    assert "line 6 in answer" in done.stderr


def test_what_goes_on_is_let_go_on() -> None:
    done = ended("await asyncio.sleep(0)")
    assert (done.returncode, done.stderr) == (0, "")
