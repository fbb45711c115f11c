"""One hold on one turn, as the roster sees it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from turnstream.connectors.postgres.ledger.rows import Claim, Finish


class Release(NamedTuple):
    """The attempt stopped in the middle of its turn, and another one is to carry on.

    With a `trouble`, which may be the turn's fault, the attempt counts and the thread waits for a
    while.
    """

    trouble: str = ""


class Attempt(Protocol):
    """Runs one claimed turn."""

    claim: Claim

    async def run(self) -> Finish | Release | None:
        """Run the turn; returns what becomes of its thread, None if it is not this worker's."""
        ...

    def cancel(self, cause: str) -> None:
        """Stop the turn and keep its text."""
        ...

    def drain(self) -> None:
        """Stop at the next step boundary and release the thread."""
        ...

    def abandon(self) -> None:
        """Stop and emit nothing more: the thread is not this worker's any more."""
        ...

    def halt(self, why: str, *, silently: bool = False) -> None:
        """Stop at once, at a token, and release the thread; `silently`: drop what is unsent."""
        ...
