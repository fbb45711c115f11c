"""The supervisor of a local stack: starts the parts that are missing, watches and stops them.

    with LocalStack(parts=("kafka", "postgres")) as stack:
        use(stack.kafka_bootstrap, stack.database_url)

It blocks while it starts (seconds; the first time it fetches Kafka) and while it stops. Start it
from a thread that lives as long as the stack shall, such as the main one: the kernel stops the
parts when that thread ends, which is how they end with a supervisor that is killed.
"""

from __future__ import annotations

import tempfile
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Self

from turnstream.deploy.local import machine
from turnstream.deploy.local.folder import Folder, stop_parts
from turnstream.deploy.local.model import NAME
from turnstream.deploy.local.plan import Plan
from turnstream.deploy.local.postgres_data import data_place
from turnstream.deploy.local.process import Identity, identify
from turnstream.deploy.local.recipes import Recipes
from turnstream.deploy.local.state import (
    PartState,
    StackState,
    Status,
    recover_state,
    write_state,
)
from turnstream.deploy.local.watch import Watch
from turnstream.schemas.errors import PartError, StackError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

    from turnstream.deploy.local.part import Part
    from turnstream.deploy.local.watch import Report


class LocalStack:
    """A running stack; a context manager.

    Without a folder it lives in a temporary one that goes with it. `embedded` says that this
    process is more than a supervisor, so that `turnstream down` leaves it alone.
    """

    def __init__(
        self,
        folder: Path | None = None,
        *,
        parts: tuple[str, ...] = ("kafka", "postgres"),
        plan: Plan | None = None,
        embedded: bool = True,
        report: Report = lambda _: None,
    ) -> None:
        self.plan = plan or Plan(parts=parts)
        self._temporary = folder is None
        self.folder = Folder(folder or Path(tempfile.mkdtemp(prefix="turnstream-")))
        self._report = report
        self.state = StackState(embedded=embedded)
        self._watch = Watch(self.folder, self.state, report)

    @property
    def kafka_bootstrap(self) -> str:
        """Return `host:port` of the broker."""
        return self.state.kafka_bootstrap

    @property
    def database_url(self) -> str:
        """Return the database's URL, with the password; the user may create databases."""
        return self.state.database_url

    @property
    def model_url(self) -> str:
        """Return the base URL of the OpenAI API, with `/v1`."""
        return self.state.model_url

    @property
    def edge_url(self) -> str:
        """Return the edge's base URL."""
        return self.state.edge_url

    @property
    def processes(self) -> dict[str, Identity]:
        """Return the processes started here and alive, by part (`worker-1`, `kafka`, …)."""
        return {
            part.name: part.process
            for part in self.state.parts
            if part.process is not None and part.process.alive()
        }

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start what the plan names and wait until all of it is ready.

        Raises `StackRunningError` when the folder has a supervisor, `PartError` when a part does
        not start; then everything is stopped again.
        """
        self.folder.acquire()
        try:
            before = recover_state(self.folder.path)
            stop_parts(before)  # what a killed supervisor may have left
            if self.plan.fresh:
                self.folder.clear()
            self.state.supervisor = identify(machine.own_pid())
            write_state(self.folder.path, self.state)
            recipes = Recipes(self.plan, self.folder, before, self._fetched)
            self._start_servers(recipes)
            self._start_services(recipes)
            self.state.ready = True
            write_state(self.folder.path, self.state)
        except BaseException as error:
            if isinstance(error, PartError) and (part := self.state.part(error.part)):
                part.status, part.detail = Status.FAILED, error.cause
                self._report(part)
            self.stop()
            raise

    def stop(self, *, hurry: Callable[[], bool] = lambda: False) -> None:
        """Stop everything that was started here, the last first; safe to call twice.

        Each part has its time to end by itself, unless `hurry` begins to return True.
        """
        if not self.folder.held:
            return
        self.state.ready = False
        stop_parts(self.state, hurry=hurry, report=self._report)
        self._watch.reap()
        self.state.supervisor = None
        write_state(self.folder.path, self.state)
        if self._temporary:
            self.folder.remove()
        self.folder.release()

    def restart(self, name: str) -> None:
        """Start a part again that has ended, as it was, and wait until it is ready."""
        self._watch.restart(name)

    def check(self) -> list[PartState]:
        """Return the parts that have ended by themselves since the last call."""
        return self._watch.check()

    def mend(self) -> None:
        """Start parts again that have ended, each when its pause is over; wait for none of them."""
        self._watch.mend()

    def _start_servers(self, recipes: Recipes) -> None:
        plan, state = self.plan, self.state
        state.kafka_bootstrap, state.database_url = plan.kafka_bootstrap, plan.database_url
        state.model_url, state.model_name = plan.model_url, plan.model_name
        if "kafka" in plan.parts and not self._given("kafka", plan.kafka_bootstrap):
            state.kafka_bootstrap = self._begin("kafka", recipes.kafka).url
        if "postgres" in plan.parts and not self._given("postgres", plan.database_url):
            state.database_url = self._begin("postgres", recipes.postgres).url
            state.postgres_data = str(data_place(self.folder.path))
        if "model" in plan.parts and not self._given("model", plan.model_url):
            state.model_url, state.model_name = self._begin("model", recipes.model).url, NAME
        self._watch.wait_ready()

    def _start_services(self, recipes: Recipes) -> None:
        plan = self.plan
        told = {**plan.env, **self.state.environment()}
        if "worker" in plan.parts:
            for number in range(1, plan.workers + 1):
                self._begin(f"worker-{number}", partial(recipes.worker, number, told))
        self._watch.wait_ready()
        if "edge" in plan.parts:
            self.state.edge_url = self._begin("edge", partial(recipes.edge, told)).url
        if "processor" in plan.parts:
            self._begin("processor", partial(recipes.processor, told))
        self._watch.wait_ready()

    def _given(self, name: str, url: str) -> bool:
        if url:
            shown = PartState(name=name, status=Status.EXTERNAL, url=url)
            self.state.parts.append(shown)
            self._report(shown)
        return bool(url)

    def _begin(self, name: str, make: Callable[[], Part]) -> Part:
        """Make a part and start it, without waiting until it is ready."""
        log = self.folder.log(name)
        shown = PartState(name=name, status=Status.PREPARING, log=str(log))
        self.state.parts.append(shown)
        self._report(shown)
        with _failing(name):
            part = make()
        self._watch.begin(part, shown)
        return part

    def _fetched(self, done: int, wanted: int) -> None:
        shown = self.state.part("kafka")
        if shown is not None and done < wanted:
            shown.detail = f"fetching jars, {done} of {wanted}"
            self._report(shown)


@contextmanager
def _failing(name: str) -> Iterator[None]:
    """Name the part in an error that does not."""
    try:
        yield
    except PartError:
        raise
    except (OSError, StackError) as error:
        raise PartError(part=name, cause=str(error)) from error
