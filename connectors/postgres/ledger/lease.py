"""The worker's lease: one row, renewed from a thread and a direct connection of its own.

The thread renews if the event loop has ticked (`beat`) since the last renewal, however late: a
worker on busy cores is slow, not dead. A loop that does not tick at all is excused for `excuse_s`,
because this thread runs and so the process lives. After that the thread stops renewing. Peers judge
the row by the server's clock and by whether this connection's session still exists. Each renewal
also stores for how long Kafka has not answered the worker.
"""

from __future__ import annotations

import asyncio
import os
import select
import threading
import time
from typing import TYPE_CHECKING, Literal, Self

import psycopg

from turnstream.schemas.errors import DatabaseUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from uuid import UUID

    from psycopg.rows import TupleRow

LEASE_TTL_S = 3.0
RENEW_EVERY_S = 1.0
RETRY_EVERY_S = 0.2

LeaseState = Literal["held", "holding", "lost"]


class Lease:
    """Registers `worker` and keeps its row until the context ends, or the lease is lost.

    `held`: the worker produces and commits. `holding`: the deadline has passed without a renewal;
    the worker emits nothing and begins nothing, because a peer may own the threads by now. The next
    renewal finds the row untouched (`held` again) or gone. `lost` is final: the attempts end, and
    the worker needs a new id. A restored database or a failover (a new timeline) ends the lease as
    well.

    `excuse_s`: seconds for which renewals go on although the loop does not tick. `faltered`: the
    loop was behind at the last renewal or since, so a loss may be its fault. `on_change` is called
    on the event loop when the thread sees the state change; `state` is right at any moment, also in
    a process that was just woken. `silent_s` returns the seconds since Kafka answered the worker,
    None if peers are not to judge by it; it is called from the lease's thread.
    """

    def __init__(
        self,
        dsn: str,
        worker: UUID,
        name: str,
        *,
        ttl_s: float = LEASE_TTL_S,
        renew_every_s: float = RENEW_EVERY_S,
        excuse_s: float = 0.0,
        silent_s: Callable[[], float | None] = lambda: 0.0,
        on_change: Callable[[LeaseState], None] | None = None,
    ) -> None:
        self.worker = worker
        self._dsn = dsn
        self._name = name
        self._ttl_s = ttl_s
        self._every_s = renew_every_s
        self._excuse_s = excuse_s
        self._silent_s = silent_s
        self._on_change = on_change
        self._connection: psycopg.Connection[TupleRow] | None = None
        self._deadline = 0.0
        self._beat = time.monotonic()
        self._beat_renewed = self._beat
        self.faltered = False
        self._steady_from = 0.0
        self._lost = False
        self._told: LeaseState = "held"
        self._ended = False
        self._wake_in, self._wake_out = -1, -1
        self._thread = threading.Thread(target=self._run, name="lease", daemon=True)

    @property
    def state(self) -> LeaseState:
        """Return the state at this moment; cheap enough for every produce round."""
        if self._lost:
            return "lost"
        return "held" if time.monotonic() < self._deadline else "holding"

    def beat(self) -> None:
        """Note that the event loop ticks; call it more often than `renew_every_s`."""
        self.faltered = self.faltered or self._behind
        self._beat = time.monotonic()

    @property
    def _behind(self) -> bool:
        return time.monotonic() - self._beat > self._every_s

    def _may_renew(self) -> bool:
        """Return whether the loop has ticked since the last renewal, or is still excused."""
        return self._beat > self._beat_renewed or (time.monotonic() - self._beat < self._excuse_s)

    @property
    def steady_s(self) -> float:
        """Return for how long the lease has been held over one connection, without a break.

        A worker that judges its peers must have been able to renew for a while itself. After an
        outage of the server all leases are over and all sessions are missing, also those of live
        workers.
        """
        return time.monotonic() - self._steady_from if self.state == "held" else 0.0

    async def __aenter__(self) -> Self:
        """Register the worker; raises `DatabaseUnavailableError`."""
        self._loop = asyncio.get_running_loop()
        self._beat = self._beat_renewed = time.monotonic()
        await asyncio.to_thread(self._register)
        self._wake_out, self._wake_in = os.pipe()
        self._thread.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        """Stop renewing and leave; threads that are still this worker's go to `ready`."""
        self._ended = True
        os.write(self._wake_in, b"x")
        await asyncio.to_thread(self._thread.join)
        os.close(self._wake_in)
        os.close(self._wake_out)

    def _register(self) -> None:
        sent = time.monotonic()
        try:
            self._connection = self._connect()
            self._connection.execute(
                "SELECT register_worker(%s, %s, make_interval(secs => %s), "
                "make_interval(secs => %s))",
                (self.worker, self._name, self._ttl_s, self._silent_s()),
            )
        except psycopg.Error as error:
            raise DatabaseUnavailableError(f"cannot register the worker: {error}") from error
        self._deadline = sent + self._ttl_s
        self._steady_from = time.monotonic()

    def _run(self) -> None:
        wait_s = self._every_s
        while not (self._ended or self._lost):
            self._sleep(wait_s)
            if self._ended:
                break
            wait_s = self._every_s
            if self._may_renew():
                try:
                    self._renew()
                except psycopg.Error:
                    self._drop()
                    wait_s = min(RETRY_EVERY_S, self._every_s)
            else:
                self.faltered = True
                wait_s = min(RETRY_EVERY_S, self._every_s)
            self._tell()
        if not self._lost:
            self._leave()
        self._drop()

    def _sleep(self, wait_s: float) -> None:
        # A cut connection can be read at once, so it is replaced before peers miss its session.
        poll = select.poll()  # not select(): it takes no descriptor above 1023
        poll.register(self._wake_out, select.POLLIN)
        if self._connection is not None:
            poll.register(self._connection.fileno(), select.POLLIN)
        ready = {fd for fd, _ in poll.poll(1000 * self._until_change(wait_s))}
        if self._connection is not None and self._connection.fileno() in ready:
            self._drop()

    def _until_change(self, wait_s: float) -> float:
        left = self._deadline - time.monotonic()
        return min(wait_s, left + 0.001) if left > 0 else wait_s

    def _renew(self) -> None:
        unbroken = self._connection is not None and self.state == "held"
        connection = self._connection = self._connection or self._connect()
        beat, sent = self._beat, time.monotonic()
        row = connection.execute(
            "SELECT renew_worker(%s, make_interval(secs => %s), make_interval(secs => %s))",
            (self.worker, self._ttl_s, self._silent_s()),
        ).fetchone()
        if row and row[0]:
            self._beat_renewed = beat
            self.faltered = self._behind
            if not unbroken:
                self._steady_from = time.monotonic()
            self._deadline = sent + self._ttl_s
        else:
            self._lost = True

    def _leave(self) -> None:
        try:
            connection = self._connection = self._connection or self._connect()
            connection.execute("SELECT dismiss_worker(%s)", (self.worker,))
        except psycopg.Error:
            return  # peers find the row's time over

    def _tell(self) -> None:
        state = self.state
        if state != self._told and self._on_change is not None:
            self._loop.call_soon_threadsafe(self._on_change, state)
        self._told = state

    def _connect(self) -> psycopg.Connection[TupleRow]:
        limit_ms = round(self._ttl_s * 1000)
        return psycopg.connect(
            self._dsn,
            autocommit=True,
            prepare_threshold=0,
            connect_timeout=max(2, round(self._ttl_s)),
            application_name="turnstream-lease",
            options=f"-c statement_timeout={limit_ms}",
            tcp_user_timeout=limit_ms,
        )

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
