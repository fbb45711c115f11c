"""A short campaign with fixed seeds, and planted bugs that a campaign has to find.

The long one: `make chaos`; every planted bug: `python -m tests.chaos --planted NAME`.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.chaos.planted import PLANTS

if TYPE_CHECKING:
    from collections.abc import Mapping

ROOT = Path(__file__).parents[2]
RUNS, MINUTES = 60, 2.0


def campaign(*arguments: str, environment: Mapping[str, str]) -> tuple[int, str]:
    """Run one; return its exit code and what it said."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.chaos", *arguments],
        cwd=ROOT,
        env=dict(environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout


@pytest.fixture
def environment(stack: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Mapping[str, str]:
    """The environment of a campaign on the servers of this test session."""
    import os

    monkeypatch.setenv("TURNSTREAM_TEST_KAFKA", stack["kafka"])
    monkeypatch.setenv("TURNSTREAM_TEST_DATABASE", stack["database"])
    return os.environ


@pytest.mark.timeout(600)
def test_a_short_campaign_breaks_nothing(environment: Mapping[str, str]) -> None:
    code, said = campaign(
        "--seed", "7", "--runs", str(RUNS), "--minutes", str(MINUTES), environment=environment
    )
    print(said)
    assert code == 0, said


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", ["no-fence", "no-rewind", "skipped-n"])
def test_a_campaign_finds_a_planted_bug(environment: Mapping[str, str], name: str) -> None:
    code, said = campaign(
        "--plain", "--runs", "6", "--stages", "2", "--planted", name, environment=environment
    )
    assert code == 1, said
    assert f"invariant {PLANTS[name].breaks} is broken" in said, said
