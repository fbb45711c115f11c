"""All tests: first those that bear company, two at a time, then the others, one after the other.

    python -m tests    (`make test`)

Most of a test's time is spent waiting for servers, so two processes with servers of their own take
little more than half the time of one. What measures a time, fills the machine or plays a race has
it to itself: all that is not named here, so that a new folder is alone until it is named.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree as ET

ROOT = Path(__file__).parents[1]
TOGETHER = (
    "tests/test_readme.py",
    "tests/deploy",
    "tests/streams/edge",
    "tests/integration/sdk",
    "tests/integration/test_start.py",
    "tests/chaos/parts",
    "tests/integration/test_dead_letters.py",
    "tests/integration/test_poison.py",
    "tests/connectors",
    "tests/contracts",
    "tests/examples",
    "tests/graph",
    "tests/schemas",
    "tests/streams/cli",
    *sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("tests/streams/test_*.py")),
    "tests/test_docs.py",
    "tests/test_package.py",
)
"""The longest first."""
PROCESSES = 2
COUNTED = ("tests", "failures", "errors", "skipped")


def main() -> int:
    """Run both parts, whatever comes of the first; return 0 if nothing failed in either."""
    parts = (
        ("-n", str(PROCESSES), "--dist", "loadfile", *TOGETHER),
        (*(f"--ignore={path}" for path in TOGETHER), "tests"),
    )
    with tempfile.TemporaryDirectory(prefix="turnstream-reports-") as folder:
        reports = [Path(folder, f"{number}.xml") for number in range(len(parts))]
        codes = [_run(*part, f"--junit-xml={at}") for part, at in zip(parts, reports, strict=True)]
        print(_total(reports))
    return next((code for code in codes if code), 0)


def _run(*arguments: str) -> int:
    """Run pytest; after Ctrl-C, which it hears too, let it stop its servers."""
    process = subprocess.Popen([sys.executable, "-m", "pytest", *arguments], cwd=ROOT)
    try:
        return process.wait()
    except KeyboardInterrupt:
        process.wait()
        raise


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
    sys.exit(main())
