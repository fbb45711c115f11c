"""A worker's memory limit: what the setting says, else a share of the container's."""

from __future__ import annotations

from pathlib import Path

import pytest

from turnstream.streams.process.memory import MIB, memory_limit, resident_bytes


@pytest.mark.parametrize(
    ("mib", "container", "limit"),
    [
        (300, "max\n", 300 * MIB),
        (300, "1000000000\n", 300 * MIB),
        (0, "1000000000\n", 900_000_000),
        (0, "max\n", 0),
        (0, "9223372036854771712\n", 0),  # cgroups of version 1, without a limit
        (0, "", 0),
        (0, None, 0),
    ],
)
def test_the_limit(tmp_path: Path, mib: int, container: str | None, limit: int) -> None:
    path = tmp_path / "memory.max"
    if container is not None:
        path.write_text(container)
    assert memory_limit(mib, (tmp_path / "none", path)) == limit


def test_what_is_held_is_told() -> None:
    before = resident_bytes()
    held = b"x" * (64 * MIB)
    assert resident_bytes() - before > 32 * MIB
    assert len(held)
