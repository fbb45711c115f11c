"""A worker whose tools count their effects, and that halts where a thread's name tells it to.

The thread `x-PLACE-y` halts at PLACE: `asked` (before the start is recorded), `begun` and `acted`
(in the tool), `told` (after the result is recorded). It writes `<thread>.PLACE` into HALT_FOLDER
and waits there for the file `open`. Another worker, which finds that file, does not halt.
"""

import asyncio
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import uvloop

sys.path.insert(0, str(Path(__file__).parents[1] / "chaos" / "graphs"))
import counting

from turnstream.connectors.postgres.ledger.tool_calls import LedgerToolCalls
from turnstream.graph.agent.builder import agent_entry
from turnstream.graph.langgraph.catalog import Catalog
from turnstream.graph.ports.lookup import Services
from turnstream.graph.ports.model import MODEL
from turnstream.streams.app.graphs import model_of
from turnstream.streams.app.settings import load_settings
from turnstream.streams.app.worker import open_worker
from turnstream.streams.process.life import log_as_json, on_stop_signal

FOLDER = Path(os.environ["HALT_FOLDER"])
THREADS = 64


async def halt(place: str, thread_key: str) -> None:
    """Say that the thread is there, and wait."""
    thread = thread_key.rpartition("/")[2]
    if f"-{place}-" in thread:
        with (FOLDER / f"{thread}.{place}").open("a") as said:
            said.write(f"{os.getpid()}\n")
        while not (FOLDER / "open").exists():
            await asyncio.sleep(0.02)


def watch_the_ledger() -> None:
    """Halt before a start and after a result, too."""
    start, finish = LedgerToolCalls.start, LedgerToolCalls.finish

    async def asked(self: LedgerToolCalls, call: Any) -> Any:
        await halt("asked", self.thread_key)
        return await start(self, call)

    async def told(self: LedgerToolCalls, call: Any, result: Any) -> None:
        await finish(self, call, result)
        await halt("told", self.thread_key)

    LedgerToolCalls.start, LedgerToolCalls.finish = asked, told  # type: ignore[method-assign]


async def run(name: str) -> None:
    """Work until SIGTERM."""
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(THREADS))
    settings = load_settings()
    log_as_json(settings.log_level, exception_text=settings.log_exception_text)
    counting.strikes.append(halt)
    watch_the_ledger()
    async with model_of(settings) as model:
        catalog = Catalog()
        catalog.add(agent_entry(Services().adding(MODEL, model), counting.agent_tools()))
        catalog.load(settings.langgraph_json)
        async with open_worker(settings, name=name, catalog=catalog) as worker:
            on_stop_signal(worker.stop)
            await worker.run()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run(sys.argv[1]))
