"""The parts that a supervisor has started: awaited, watched, started again when they end.

Every change is written to the stack's state and reported.
"""

from __future__ import annotations

import time
from collections import defaultdict
from typing import TYPE_CHECKING

from turnstream.deploy.local.mending import Backoff
from turnstream.deploy.local.part import Part, Running
from turnstream.deploy.local.state import PartState, StackState, Status, write_state
from turnstream.schemas.errors import PartError, StackError

if TYPE_CHECKING:
    from collections.abc import Callable

    from turnstream.deploy.local.folder import Folder

    Report = Callable[[PartState], None]

_POLL_S = 0.05


class Watch:
    """The running parts of one stack; `shown` of a method is the part's entry in the state."""

    def __init__(self, folder: Folder, state: StackState, report: Report) -> None:
        self._folder, self._state, self._report = folder, state, report
        self._running: list[Running] = []
        self._backoffs: defaultdict[str, Backoff] = defaultdict(Backoff)

    def begin(self, part: Part, shown: PartState) -> None:
        """Start a part, without waiting until it is ready."""
        running = Running(part)
        self._running.append(running)
        shown.status, shown.detail, shown.process = Status.STARTING, "", running.identity
        shown.url, shown.ports, shown.tier = part.url, part.ports, part.tier
        shown.stop_signal, shown.stop_timeout_s = part.stop_signal, part.stop_timeout_s
        self._changed(shown)

    def wait_ready(self) -> None:
        """Block until every part that was started is ready; raises `PartError`."""
        self._await([one for one in self._running if not one.ready])

    def reap(self) -> None:
        """Collect the exit statuses of parts that have been stopped, and forget them."""
        for running in self._running:
            running.reap()
        self._running.clear()

    def restart(self, name: str) -> None:
        """Start a part again that has ended, as it was, and wait until it is ready."""
        before = next((one for one in self._running if one.part.name == name), None)
        shown = self._state.part(name)
        if before is None or shown is None or not before.ended():
            raise StackError(f"{name} is not a part of this stack that has ended")
        self._await([self._again(before, shown)])

    def check(self) -> list[PartState]:
        """Return the parts that have ended by themselves since the last call."""
        ended = []
        for running in self._running:
            how = running.ended() if running.ready and not running.reported_end else ""
            state = self._state.part(running.part.name)
            if how and state is not None:
                self._has_ended(running, state, how)
                ended.append(state)
        return ended

    def mend(self) -> None:
        """Start parts again that have ended, each when its pause is over; wait for none of them."""
        self.check()
        for running in tuple(self._running):
            shown = self._state.part(running.part.name)
            if shown is None:
                continue
            backoff = self._backoffs[shown.name]
            try:
                if running.reported_end:
                    note = self._folder.restart_note(shown.name)
                    if note.exists():
                        self._again(running, shown)
                        note.unlink(missing_ok=True)
                    elif time.monotonic() >= backoff.due_at:
                        shown.restarts, shown.cause = shown.restarts + 1, shown.detail
                        self._again(running, shown)
                elif not running.ready and running.poll():
                    backoff.ready(time.monotonic())
                    self._is_ready(running, shown)
            except PartError as error:
                self._has_ended(running, shown, error.cause)

    def _await(self, begun: list[Running]) -> None:
        waiting = list(begun)
        while waiting:
            for running in tuple(waiting):
                shown = self._state.part(running.part.name)
                if running.poll() and shown is not None:
                    waiting.remove(running)
                    self._backoffs[shown.name].ready(time.monotonic())
                    self._is_ready(running, shown)
                if shown is not None and shown.process != running.identity:
                    shown.process = running.identity  # it was started a second time
                    write_state(self._folder.path, self._state)
            if waiting:
                time.sleep(_POLL_S)
        write_state(self._folder.path, self._state)

    def _again(self, before: Running, shown: PartState) -> Running:
        self._folder.log(shown.name)
        again = Running(before.part)
        self._running[self._running.index(before)] = again
        shown.status, shown.detail, shown.process = Status.STARTING, "", again.identity
        self._changed(shown)
        return again

    def _has_ended(self, running: Running, shown: PartState, how: str) -> None:
        running.kill()  # one that was never ready in its time still runs
        running.reported_end = True
        self._backoffs[shown.name].ended(time.monotonic())
        shown.status, shown.detail, shown.process = Status.ENDED, how, None
        self._changed(shown)

    def _is_ready(self, running: Running, shown: PartState) -> None:
        took = time.monotonic() - running.began
        shown.status, shown.detail = Status.READY, f"{took:.1f} s"
        shown.process = running.identity
        self._changed(shown)

    def _changed(self, shown: PartState) -> None:
        write_state(self._folder.path, self._state)
        self._report(shown)
