"""A short campaign with fixed seeds, and planted bugs that a campaign has to find.

The long one: `make chaos`; every planted bug: `python -m tests.chaos --planted NAME`.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.chaos.planted import PLANTS

ROOT = Path(__file__).parents[2]
RUNS, MINUTES = 60, 1.5
"""Whichever comes first; the machine decides how many stories that is."""


def campaign(*arguments: str, **environment: str) -> tuple[int, str]:
    """Run one; return its exit code and what it said, which is printed however this ends."""
    with tempfile.TemporaryFile("w+") as out:
        try:
            done = subprocess.run(
                [sys.executable, "-m", "tests.chaos", *arguments],
                cwd=ROOT,
                env={**os.environ, **environment},
                stdout=out,
                stderr=subprocess.STDOUT,
                check=False,
            )
        finally:
            out.seek(0)
            said = out.read()
            print(said)
    return done.returncode, said


@pytest.mark.timeout(600)
@pytest.mark.usefixtures("starts_servers")
def test_a_short_campaign_breaks_nothing() -> None:
    code, said = campaign("--seed", "7", "--runs", str(RUNS), "--minutes", str(MINUTES))
    assert code == 0, said


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", ["no-fence"])
def test_a_campaign_finds_a_planted_bug(stack: dict[str, str], name: str) -> None:
    code, said = campaign(
        *("--plain", "--runs", "6", "--stages", "2", "--planted", name),
        TURNSTREAM_TEST_KAFKA=stack["kafka"],
        TURNSTREAM_TEST_DATABASE=stack["database"],
    )
    assert code == 1, said
    assert f"invariant {PLANTS[name].breaks} is broken" in said, said
