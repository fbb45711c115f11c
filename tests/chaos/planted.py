"""Bugs that can be planted into worker and edge processes, one for each invariant.

The campaign has to fail with each of them (`python -m tests.chaos --planted NAME`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

PLANTS: dict[str, Callable[[str], None]] = {}


def plant(name: str, kind: str) -> None:
    """Put the bug of this name into this process, a `worker` or an `edge`; nothing for ""."""
    if name:
        PLANTS[name](kind)
