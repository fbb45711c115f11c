"""Workers and edges of the campaign, made by forking one process that has imported everything.

For each line on standard input, an object, it writes one line: `{"kind", "name", "log", "env"}`
makes a process and answers its id; `{"reap": id}` collects one that is dead. Its workers are like
any other, but that their agent has the campaign's tools, that points are watched (`points.py`), and
that a bug may be planted (`planted.py`). SIGUSR1 makes one write its tasks beside its log.
"""

import asyncio
import ctypes
import gc
import json
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import langchain_openai  # noqa: F401  what the graphs will import
import langgraph.prebuilt  # noqa: F401
import uvloop

from tests.chaos import planted, points
from turnstream.connectors.kafka.read import inbox
from turnstream.connectors.postgres import pools
from turnstream.graph.agent.builder import agent_entry
from turnstream.graph.langgraph.catalog import Catalog
from turnstream.graph.ports.lookup import Services
from turnstream.graph.ports.model import MODEL
from turnstream.graph.tools import built_in_tools
from turnstream.streams.app.edge import open_edge
from turnstream.streams.app.graphs import model_of
from turnstream.streams.app.settings import load_settings
from turnstream.streams.app.worker import open_worker
from turnstream.streams.process.life import log_as_json
from turnstream.streams.process.start import run_until_signal

sys.path.insert(0, str(Path(__file__).with_name("graphs")))
import counting

_PR_SET_PDEATHSIG = 1


async def work(name: str) -> None:
    """Be a worker until SIGTERM."""
    settings = load_settings()
    log_as_json(settings.log_level, exception_text=settings.log_exception_text)
    _tell_tasks()
    counting.strikes.append(_strike)
    async with model_of(settings) as model:
        catalog = Catalog()
        catalog.add(
            agent_entry(
                Services().adding(MODEL, model), [*built_in_tools(), *counting.agent_tools()]
            )
        )
        catalog.load(settings.langgraph_json)
        await run_until_signal(
            settings,
            lambda: open_worker(settings, name=name, catalog=catalog),
            create=False,
            host=settings.worker_health_host,
            port=settings.worker_health_port,
        )


async def serve() -> None:
    """Be an edge until SIGTERM."""
    settings = load_settings()
    log_as_json(settings.log_level, exception_text=settings.log_exception_text)
    _tell_tasks()
    await run_until_signal(
        settings,
        lambda: open_edge(settings),
        create=False,
        host=settings.edge_host,
        port=settings.edge_port,
    )


async def _strike(place: str, thread_key: str) -> None:
    """Let a tool's places be points like any other."""
    points.reach({"begun": "tool-begun", "acted": "tool"}[place], thread_key)


def _tell_tasks() -> None:
    """On SIGUSR1 write how many tasks there are, by the names of what they run."""

    def tell() -> None:
        names = sorted(getattr(t.get_coro(), "__qualname__", "?") for t in asyncio.all_tasks())
        Path(os.environ["CHAOS_LOG"]).with_suffix(".tasks").write_text(json.dumps(names))

    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, tell)


def become(asked: dict[str, Any]) -> None:
    """Turn this fork into a worker or an edge that writes to its log and ends with its template."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    log = os.open(asked["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    os.environ.update(asked["env"])
    os.environ.update(CHAOS_LOG=asked["log"])
    if session_ms := int(os.environ.get("CHAOS_SESSION_MS", "0")):
        inbox.SESSION_TIMEOUT_MS = session_ms
    _sign_connections(asked["name"])
    if asked["kind"] == "worker":
        points.install(Path(os.environ["CHAOS_FOLDER"]), asked["name"])
    planted.plant(os.environ.get("CHAOS_PLANTED", ""), asked["kind"])
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(work(asked["name"]) if asked["kind"] == "worker" else serve())


def _sign_connections(name: str) -> None:
    """Let the database know who writes: `witness.sql` compares it with the owner."""
    settings = pools._settings
    pools._settings = lambda *given: settings(*given) | {"application_name": name}


def _collected(pid: int) -> int:
    """Return the exit code of a dead process, below 0 the signal that ended it."""
    with suppress(ChildProcessError):
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return 0


def main() -> None:
    """Serve until standard input ends."""
    gc.freeze()
    print(json.dumps({"pid": os.getpid()}), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        if "reap" in asked:
            print(json.dumps({"code": _collected(asked["reap"])}), flush=True)
            continue
        pid = os.fork()
        if not pid:
            try:
                become(asked)
            except BaseException:  # noqa: BLE001  a fork must never go on as its template
                sys.excepthook(*sys.exc_info())
                os._exit(1)
            os._exit(0)
        print(json.dumps({"pid": pid}), flush=True)


if __name__ == "__main__":
    main()
