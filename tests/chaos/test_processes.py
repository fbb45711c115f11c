"""Every answer of the template reaches who asked, also beside an asker that was cancelled."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys

from tests.chaos.processes import Process, Template

ANSWERS_TOGETHER = """
import json, os, select
asked = b""
while data := os.read(0, 65536):
    asked += data
    while select.select([0], [], [], 0.5)[0] and (more := os.read(0, 65536)):
        asked += more
    *lines, asked = asked.split(b"\\n")
    codes = [{"code": json.loads(line)["reap"]} for line in lines]
    os.write(1, b"".join(json.dumps(code).encode() + b"\\n" for code in codes))
"""


async def test_no_answer_is_lost_beside_one_that_nobody_waits_for(tmp_path) -> None:
    """What asks in the same moment may be answered in one read."""
    process = subprocess.Popen(
        [sys.executable, "-c", ANSWERS_TOGETHER], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        template = Template(process)
        one, two = (Process("worker", f"w{pid}", pid, 0, tmp_path / "log") for pid in (1, 2))
        given_up = asyncio.create_task(template.reap(one))
        await asyncio.sleep(0.1)  # it has asked
        given_up.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await given_up
        async with asyncio.timeout(30):
            assert await template.reap(two) == 2
    finally:
        process.kill()
        process.communicate()


async def test_who_waits_for_one_that_a_fault_ends_goes_on(tmp_path) -> None:
    """`term@tool` may strike the very worker that a rolling restart has just started."""
    process = subprocess.Popen(["sleep", "60"])
    starting = Process("worker", "w1", process.pid, 1, tmp_path / "log")
    try:
        waits = asyncio.create_task(starting.ready_or_ended())
        starting.kill()
        await asyncio.wait_for(waits, 30)
    finally:
        process.kill()
        process.wait()
