"""The supervisor of a local stack: starts the parts that are missing, watches and stops them.

    with LocalStack(parts=("kafka", "postgres")) as stack:
        use(stack.kafka_bootstrap, stack.database_url)

It blocks while it starts (seconds; the first time it fetches Kafka) and while it stops. Start it
from a thread that lives as long as the stack shall, such as the main one: the kernel stops the
parts when that thread ends, which is how they end with a supervisor that is killed.
"""

from __future__ import annotations

import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Self

from turnstream.deploy.local import machine
from turnstream.deploy.local.folder import Folder, stop_parts
from turnstream.deploy.local.jars import fetch_jars, read_lock
from turnstream.deploy.local.kafka import Node, kafka_part
from turnstream.deploy.local.mending import Backoff
from turnstream.deploy.local.model import NAME, model_part
from turnstream.deploy.local.part import Part, Running
from turnstream.deploy.local.plan import Plan
from turnstream.deploy.local.postgres import data_place, postgres_part
from turnstream.deploy.local.process import Identity, identify
from turnstream.deploy.local.services import (
    JWT_SECRET,
    MODEL_API_KEY,
    edge_part,
    processor_part,
    worker_part,
)
from turnstream.deploy.local.state import (
    PartState,
    StackState,
    Status,
    recover_state,
    write_state,
)
from turnstream.schemas.errors import PartError, StackError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

_POLL_S = 0.05

Report = Callable[[PartState], None]


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
        self._running: list[Running] = []
        self._ports = machine.Ports()
        self._before = StackState()
        self._backoffs: defaultdict[str, Backoff] = defaultdict(Backoff)
        self.state = StackState(embedded=embedded)

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
            self._before = recover_state(self.folder.path)
            stop_parts(self._before)  # what a killed supervisor may have left
            if self.plan.fresh:
                self.folder.clear()
            self.state.supervisor = identify(machine.own_pid())
            write_state(self.folder.path, self.state)
            self._start_servers()
            self._start_services()
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
        for running in self._running:
            running.reap()
        self._running.clear()
        self.state.supervisor = None
        write_state(self.folder.path, self.state)
        if self._temporary:
            self.folder.remove()
        self.folder.release()

    def restart(self, name: str) -> None:
        """Start a part again that has ended, as it was, and wait until it is ready."""
        before = next((one for one in self._running if one.part.name == name), None)
        shown = self.state.part(name)
        if before is None or shown is None or not before.ended():
            raise StackError(f"{name} is not a part of this stack that has ended")
        self._await([self._again(before, shown)])

    def check(self) -> list[PartState]:
        """Return the parts that have ended by themselves since the last call."""
        ended = []
        for running in self._running:
            how = running.ended() if running.ready and not running.reported_end else ""
            state = self.state.part(running.part.name)
            if how and state is not None:
                self._has_ended(running, state, how)
                ended.append(state)
        return ended

    def mend(self) -> None:
        """Start parts again that have ended, each when its pause is over; wait for none of them."""
        self.check()
        for running in tuple(self._running):
            shown = self.state.part(running.part.name)
            if shown is None:
                continue
            backoff = self._backoffs[shown.name]
            try:
                if running.reported_end:
                    note = self.folder.restart_note(shown.name)
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

    def _again(self, before: Running, shown: PartState) -> Running:
        self.folder.log(shown.name)
        again = Running(before.part)
        self._running[self._running.index(before)] = again
        shown.status, shown.detail, shown.process = Status.STARTING, "", again.identity
        write_state(self.folder.path, self.state)
        self._report(shown)
        return again

    def _has_ended(self, running: Running, shown: PartState, how: str) -> None:
        running.kill()  # one that was never ready in its time still runs
        running.reported_end = True
        self._backoffs[shown.name].ended(time.monotonic())
        shown.status, shown.detail, shown.process = Status.ENDED, how, None
        write_state(self.folder.path, self.state)
        self._report(shown)

    def _is_ready(self, running: Running, shown: PartState) -> None:
        took = time.monotonic() - running.began
        shown.status, shown.detail = Status.READY, f"{took:.1f} s"
        shown.process = running.identity
        write_state(self.folder.path, self.state)
        self._report(shown)

    def _start_servers(self) -> None:
        plan, state = self.plan, self.state
        state.kafka_bootstrap, state.database_url = plan.kafka_bootstrap, plan.database_url
        state.model_url, state.model_name = plan.model_url, plan.model_name
        begun = []
        if "kafka" in plan.parts and not self._given("kafka", plan.kafka_bootstrap):
            begun.append(self._begin("kafka", self._kafka))
            state.kafka_bootstrap = begun[-1].part.url
        if "postgres" in plan.parts and not self._given("postgres", plan.database_url):
            begun.append(self._begin("postgres", self._postgres))
            state.database_url = begun[-1].part.url
            state.postgres_data = str(data_place(self.folder.path))
        if "model" in plan.parts and not self._given("model", plan.model_url):
            begun.append(self._begin("model", self._model))
            state.model_url, state.model_name = begun[-1].part.url, NAME
        self._await(begun)

    def _start_services(self) -> None:
        plan = self.plan
        told = {**plan.env, **self.state.environment()}
        of_worker = machine.own_environment(without={JWT_SECRET}, graphs=True) | told
        of_edge = machine.own_environment(without={MODEL_API_KEY}, graphs=True) | told
        of_processor = (
            machine.own_environment(without={JWT_SECRET, MODEL_API_KEY}, graphs=False) | told
        )
        logs = self.folder.logs
        begun = []
        if "worker" in plan.parts:
            for number in range(1, plan.workers + 1):
                name = f"worker-{number}"

                def worker(name: str = name, number: int = number) -> Part:
                    port = self._port(name, "health")
                    return worker_part(
                        number, logs=logs, env=of_worker, port=port, drain_s=plan.worker_drain_s
                    )

                begun.append(self._begin(name, worker))
        self._await(begun)
        begun = []
        if "edge" in plan.parts:

            def edge() -> Part:
                port = self._port("edge", "http", plan.edge_port, plan.edge_port_preferred)
                return edge_part(logs=logs, env=of_edge, port=port)

            begun.append(self._begin("edge", edge))
            self.state.edge_url = begun[-1].part.url
        if "processor" in plan.parts:
            folder = self.folder.path / "processor"
            begun.append(
                self._begin(
                    "processor", lambda: processor_part(folder=folder, logs=logs, env=of_processor)
                )
            )
        self._await(begun)

    def _kafka(self) -> Part:
        java = self.plan.java
        found = (java, machine.java_version(java)) if java else machine.find_java()
        jars = fetch_jars(read_lock(), self._cache(), progress=self._fetched)
        return kafka_part(
            folder=self.folder.path / "kafka",
            log=self.folder.logs / "kafka.log",
            jars=jars,
            java=found,
            env=machine.environment(),
            port=self._port("kafka", "broker", self.plan.kafka_port),
            node=Node(controller_ports=(self._port("kafka", "controller"),)),
            options=self.plan.kafka_options,
        )

    def _postgres(self) -> Part:
        return postgres_part(
            folder=self.folder.path,
            log=self.folder.logs / "postgres.log",
            cache=self._cache(),
            env=machine.environment(),
            port=self._port("postgres", "server", self.plan.postgres_port),
            options=self.plan.postgres_options,
        )

    def _model(self) -> Part:
        return model_part(
            log=self.folder.logs / "model.log",
            env=machine.environment(),
            port=self._port("model", "http", self.plan.model_port),
        )

    def _given(self, name: str, url: str) -> bool:
        if url:
            shown = PartState(name=name, status=Status.EXTERNAL, url=url)
            self.state.parts.append(shown)
            self._report(shown)
        return bool(url)

    def _begin(self, name: str, prepare: Callable[[], Part]) -> Running:
        """Prepare a part and start it, without waiting until it is ready."""
        log = self.folder.log(name)
        shown = PartState(name=name, status=Status.PREPARING, log=str(log))
        self.state.parts.append(shown)
        self._report(shown)
        with _failing(name):
            part = prepare()
        running = Running(part)
        self._running.append(running)
        shown.status, shown.detail, shown.process = Status.STARTING, "", running.identity
        shown.url, shown.ports, shown.tier = part.url, part.ports, part.tier
        shown.stop_signal, shown.stop_timeout_s = part.stop_signal, part.stop_timeout_s
        write_state(self.folder.path, self.state)
        self._report(shown)
        return running

    def _await(self, begun: list[Running]) -> None:
        waiting = list(begun)
        while waiting:
            for running in tuple(waiting):
                shown = self.state.part(running.part.name)
                if running.poll() and shown is not None:
                    waiting.remove(running)
                    self._backoffs[shown.name].ready(time.monotonic())
                    self._is_ready(running, shown)
                if shown is not None and shown.process != running.identity:
                    shown.process = running.identity  # it was started a second time
                    write_state(self.folder.path, self.state)
            if waiting:
                time.sleep(_POLL_S)
        write_state(self.folder.path, self.state)

    def _fetched(self, done: int, wanted: int) -> None:
        shown = self.state.part("kafka")
        if shown is not None and done < wanted:
            shown.detail = f"fetching jars, {done} of {wanted}"
            self._report(shown)

    def _cache(self) -> Path:
        cache = self.plan.cache or machine.cache_folder()
        cache.mkdir(parents=True, exist_ok=True)
        return cache

    def _port(self, name: str, use: str, asked: int = 0, preferred: int = 0) -> int:
        before = self._before.part(name)
        remembered = before.ports.get(use, 0) if before else 0
        with _failing(name):
            return self._ports.take(asked=asked, remembered=remembered or preferred)


@contextmanager
def _failing(name: str) -> Iterator[None]:
    """Name the part in an error that does not."""
    try:
        yield
    except PartError:
        raise
    except (OSError, StackError) as error:
        raise PartError(part=name, cause=str(error)) from error
