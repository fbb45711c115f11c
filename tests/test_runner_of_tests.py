"""`python -m tests`: it leaves nothing behind, and names the slowest tests of all parts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.__main__ import _slowest, _total

ROOT = Path(__file__).parents[1]
RUN = """
import subprocess, sys
from tests.__main__ import _leaving_nothing

ORPHAN = (
    "import subprocess as s;"
    "print(s.Popen(['sleep', '600'], start_new_session=True, stdout=s.DEVNULL).pid)"
)
DEAF = (
    "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN);"
    "from tests.conftest import _folder; held = _folder(); print(held.__enter__(), flush=True);"
    "time.sleep(600)"
)
with _leaving_nothing():
    made = subprocess.run([sys.executable, "-c", ORPHAN], stdout=subprocess.PIPE, text=True)
    deaf = subprocess.Popen([sys.executable, "-c", DEAF], stdout=subprocess.PIPE, text=True)
    print(int(made.stdout), deaf.pid, deaf.stdout.readline().strip(), flush=True)
    {end}
"""


@pytest.mark.parametrize(
    ("end", "number", "code"),
    [
        ("deaf.wait()", signal.SIGINT, -signal.SIGINT),
        ("deaf.wait()", signal.SIGTERM, -signal.SIGINT),
        ("pass", 0, 0),
        ("raise SystemExit(3)", 0, 3),
    ],
)
def test_it_leaves_nothing_however_it_ends(end: str, number: int, code: int):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(
        [sys.executable, "-c", RUN.format(end=end)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    signal.signal(signal.SIGINT, before)
    assert process.stdout is not None
    with process.stdout:
        orphan, deaf, data = process.stdout.readline().split()
    assert Path(data).exists() or not number
    if number:
        os.kill(process.pid, number)
    assert process.wait(timeout=60) == code
    deadline = time.monotonic() + 60
    while psutil.pid_exists(int(orphan)) or psutil.pid_exists(int(deaf)):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert not Path(data).exists()


def test_the_slowest_of_all_parts_are_named(tmp_path: Path):
    reports = [tmp_path / f"{part}.xml" for part in range(3)]  # the last part broke
    for part, report in enumerate(reports[:2]):
        cases = "".join(
            f'<testcase classname="tests.m{part}" name="t{n}" time="{n + part / 2}"/>'
            for n in range(40)
        )
        report.write_text(
            '<testsuites><testsuite tests="40" failures="1" errors="0" skipped="2">'
            f"{cases}</testsuite></testsuites>"
        )
    lines = _slowest(reports).splitlines()
    assert lines[0] == "the 30 slowest tests:"
    assert [line.split() for line in lines[1:4]] == [
        ["39.5", "s", "tests.m1::t39"],
        ["39.0", "s", "tests.m0::t39"],
        ["38.5", "s", "tests.m1::t38"],
    ]
    assert len(lines) == 31
    assert _total(reports) == "all parts: 74 passed, 2 failed, 4 skipped"
