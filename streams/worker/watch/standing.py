"""Whether this worker may work: its lease holds, and Kafka acknowledges."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from turnstream.connectors.postgres.ledger.lease import Lease
    from turnstream.streams.worker.watch.hearing import Hearing


class Standing:
    """What the worker's loops and its pump ask before they act.

    `name` is for people. `worker` is the id under which the ledger knows this worker; it changes
    when a lease is lost. `lease` is the present one, None before the first.
    """

    def __init__(self, name: str, hearing: Hearing) -> None:
        self.name = name
        self.worker = uuid.uuid4()
        self.lease: Lease | None = None
        self._hearing = hearing

    def held(self) -> bool:
        """Return True while the lease holds: the pump's gate."""
        return self.lease is not None and self.lease.state == "held"

    def works(self) -> bool:
        """Return True while the lease holds and Kafka acknowledges."""
        return self.held() and not self._hearing.stalled

    @property
    def steady_s(self) -> float:
        """Seconds for which the lease has been renewed in time, 0 without one."""
        return 0.0 if self.lease is None else self.lease.steady_s

    def trouble(self) -> str:
        """Return why this worker does not work, "" if it does."""
        if not self.held():
            return "no lease"
        return "Kafka does not acknowledge" if self._hearing.stalled else ""
