"""All tests: first those that bear company, two at a time, then the others, one after the other.

    python -m tests            (`make test`)
    python -m tests --quick    (`make quick`: those that need no server)

Most of a test's time is spent waiting for servers, so two processes with servers of their own take
little more than half the time of one. What measures a time, fills the machine or plays a race has
it to itself: all that is not named here, so that a new folder is alone until it is named.

However it ends, it leaves no process and no data of a server: what its tests have started becomes
its own child when their process ends, and is killed.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import psutil

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

ROOT = Path(__file__).parents[1]
TOGETHER = (
    "tests/test_readme.py",
    "tests/deploy",
    "tests/streams/edge",
    "tests/integration/sdk",
    "tests/integration/faults/test_start.py",
    "tests/chaos/parts",
    "tests/integration/test_dead_letters.py",
    "tests/integration/test_poison.py",
    "tests/connectors",
    "tests/contracts",
    "tests/examples",
    "tests/graph",
    "tests/schemas",
    "tests/streams/cli",
    "tests/streams/worker",
    "tests/streams/usage",
    "tests/streams/replay",
    "tests/streams/client",
    "tests/streams/process",
    "tests/streams/app",
    "tests/model",
    "tests/test_docs.py",
    "tests/test_rooms.py",
    "tests/test_rules.py",
    "tests/test_package.py",
)
"""The longest first."""
PROCESSES = 2
COUNTED = ("tests", "failures", "errors", "skipped")
QUICK = "not servers and not model and not registry"
SLOWEST = 30
SERVERS = "TURNSTREAM_TEST_SERVERS"
"""How the names of folders begin in which the tests' servers keep their data (`conftest.py`)."""
PLACES = (Path("/dev/shm"), Path(tempfile.gettempdir()))
STOP_TIMEOUT_S = 60.0
"""For pytest to stop its servers after Ctrl-C; what is left then is killed."""
_PR_SET_CHILD_SUBREAPER = 36


def main() -> int:
    """Run both parts, whatever comes of the first; return 0 if nothing failed in either."""
    together = ("-n", str(PROCESSES), "--dist", "loadfile")
    parts: tuple[tuple[str, ...], ...] = (
        (*together, *TOGETHER),
        (*(f"--ignore={path}" for path in TOGETHER), "tests"),
    )
    if "--quick" in sys.argv[1:]:
        parts = ((*together, "-m", QUICK, "tests"),)
    with _leaving_nothing(), tempfile.TemporaryDirectory(prefix="turnstream-reports-") as folder:
        reports = [Path(folder, f"{number}.xml") for number in range(len(parts))]
        codes = [_run(*part, f"--junit-xml={at}") for part, at in zip(parts, reports, strict=True)]
        print(_slowest(reports))
        print(_total(reports))
    return next((code for code in codes if code), 0)


def _run(*arguments: str) -> int:
    """Run pytest; after Ctrl-C, which it hears too, let it stop its servers."""
    process = subprocess.Popen([sys.executable, "-m", "pytest", *arguments], cwd=ROOT)
    try:
        return process.wait()
    except KeyboardInterrupt:
        process.wait(STOP_TIMEOUT_S)
        raise


@contextmanager
def _leaving_nothing() -> Iterator[None]:
    """Adopt what descendants leave behind, and end it with its data; a SIGTERM is a Ctrl-C."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _stop)
    # a shell lets what it runs in the background ignore Ctrl-C, and pytest would inherit that
    signal.signal(signal.SIGINT, signal.default_int_handler)
    begins = os.environ[SERVERS] = f"turnstream-tests-{os.getpid()}-"
    try:
        yield
    finally:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        end_descendants()
        for folder in (folder for place in PLACES for folder in place.glob(f"{begins}*")):
            shutil.rmtree(folder, ignore_errors=True)


def _stop(_: int, __: FrameType | None) -> None:
    """Pass a SIGTERM on as a Ctrl-C, which a terminal would have sent to pytest as well."""
    for child in psutil.Process().children():
        child.send_signal(signal.SIGINT)
    raise KeyboardInterrupt


def end_descendants() -> None:
    """Kill all descendants, also those that come while the others end."""
    while children := psutil.Process().children(recursive=True):
        for child in children:
            try:
                child.kill()
            except psutil.NoSuchProcess:
                continue
        for child in psutil.Process().children():
            child.wait()
        time.sleep(0.01)


def _slowest(reports: list[Path]) -> str:
    """List the slowest tests of all parts, each with its fixtures' time."""
    took = sorted(
        (
            (float(case.attrib["time"]), f"{case.attrib['classname']}::{case.attrib['name']}")
            for report in reports
            if report.exists()
            for case in ET.parse(report).getroot().iter("testcase")
        ),
        reverse=True,
    )
    lines = [f"{seconds:7.1f} s  {name}" for seconds, name in took[:SLOWEST]]
    return "\n".join([f"the {len(lines)} slowest tests:", *lines])


def _total(reports: list[Path]) -> str:
    """Say how many of both parts' tests passed, failed and were skipped."""
    sums = dict.fromkeys(COUNTED, 0)
    for report in reports:
        if report.exists():  # it does not where pytest itself broke; its exit code tells
            for suite in ET.parse(report).getroot().iter("testsuite"):
                for name in COUNTED:
                    sums[name] += int(suite.attrib[name])
    passed = sums["tests"] - sums["failures"] - sums["errors"] - sums["skipped"]
    failed = sums["failures"] + sums["errors"]
    return f"all parts: {passed} passed, {failed} failed, {sums['skipped']} skipped"


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (KeyboardInterrupt, subprocess.TimeoutExpired):
        sys.exit(130)
