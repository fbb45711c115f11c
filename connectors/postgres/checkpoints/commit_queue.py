"""Saver calls that wait for their commit, and what each commit keeps. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from turnstream.schemas.fold.fold import add_keep
from turnstream.schemas.records.events import Keep

if TYPE_CHECKING:
    from collections.abc import Iterable

    from turnstream.connectors.postgres.checkpoints.statements import Rows


@dataclass(eq=False, slots=True)
class Item:
    """One saver call: its rows, and what its commit means for `keep`.

    `n` is the position up to which the log has to be acknowledged first, -1 until it is known.
    `keep` is the path that the commit keeps. `root`: a checkpoint of the root graph, which keeps
    everything. `holds`: the input's checkpoint, which is held back. `task`: writes of a task;
    `claimed`: a checkpoint takes these writes along. `done`: committed.
    """

    ns: str
    rows: Rows
    n: int = -1
    keep: str = ""
    root: bool = False
    checkpoint_id: str = ""
    holds: bool = False
    task: bool = False
    claimed: bool = False
    done: bool = False


class CommitQueue:
    """Items in the order in which LangGraph handed them over."""

    def __init__(self) -> None:
        self._items: list[Item] = []

    def __bool__(self) -> bool:
        return bool(self._items)

    def append(self, item: Item) -> None:
        """Add an item behind all others."""
        self._items.append(item)

    def clear(self) -> None:
        """Drop every item."""
        self._items.clear()

    def waits(self, ns: str) -> bool:
        """Return whether an item of this namespace waits."""
        return any(item.ns == ns for item in self._items)

    def claim_writes(self, ns: str, checkpoint_id: str) -> list[Item]:
        """Return the writes of the tasks that ran from a checkpoint, marked as claimed."""
        found = [
            item
            for item in self._items
            if item.task and item.ns == ns and item.checkpoint_id == checkpoint_id
        ]
        for item in found:
            item.claimed = True
        return found

    def holds(self, ns: str, checkpoint_id: str) -> bool:
        """Return whether this checkpoint is here and is the input's."""
        return any(
            item.holds and item.ns == ns and item.checkpoint_id == checkpoint_id
            for item in self._items
        )

    def close(self, items: Iterable[Item], n: int) -> None:
        """Add the items that end a turn, and give `n` to all that have no position yet."""
        self._items.extend(items)
        for item in self._items:
            if item.n < 0:
                item.n = n

    def front(self, n: int) -> list[Item]:
        """Return the items whose position is known and at most `n`."""
        return [item for item in self._items if 0 <= item.n <= n]

    def finish(self, batch: Iterable[Item]) -> None:
        """Take out the items of a commit."""
        for item in batch:
            item.done = True
        self._items = [item for item in self._items if not item.done]


def advance(
    keep: tuple[Keep, ...], keep_n: int, items: Iterable[Item]
) -> tuple[tuple[Keep, ...], int]:
    """Return `keep` and `keep_n` after these commits, in order (W5, W5n, W6)."""
    for item in items:
        if item.root:
            keep, keep_n = (), item.n
        elif item.keep:
            keep = add_keep(keep, Keep(item.keep, item.n))
    return keep, keep_n
