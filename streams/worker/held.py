"""Whether a worker's lease holds: what the worker's loops and its pump ask before they act."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from turnstream.connectors.postgres.ledger.lease import Lease


class Held:
    """The lease of this moment; the worker puts each new one in `lease`."""

    def __init__(self) -> None:
        self.lease: Lease | None = None

    def __call__(self) -> bool:
        """Return True while the lease holds: the pump's gate."""
        return self.lease is not None and self.lease.state == "held"

    @property
    def steady_s(self) -> float:
        """Seconds for which the lease has been renewed in time, 0 without one."""
        return 0.0 if self.lease is None else self.lease.steady_s
