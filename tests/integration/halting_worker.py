"""Worker processes like any other, but that their agent has one tool more, to be killed in.

Run as a program it makes them by forking, with all imports done: for each line on standard input,
an object of `name`, `log` and `env`, it writes the new process's id. It waits for none of them: so
no id is given to another process while it may yet be killed.
"""

import asyncio
import json
import os
import sys
from typing import Any

import langchain_openai  # noqa: F401  what the graphs will import
import langgraph.prebuilt  # noqa: F401
import uvloop
from pydantic import BaseModel

from turnstream.graph.agent.builder import agent_entry
from turnstream.graph.agent.state import AgentSettings
from turnstream.graph.langgraph.catalog import Catalog
from turnstream.graph.ports.lookup import Services
from turnstream.graph.ports.model import MODEL
from turnstream.graph.ports.tools import ToolCallContext
from turnstream.graph.tools import built_in_tools
from turnstream.graph.tools.function import FunctionTool
from turnstream.streams.app.graphs import model_of
from turnstream.streams.app.settings import load_settings
from turnstream.streams.app.worker import open_worker
from turnstream.streams.process.garbage import settle_memory
from turnstream.streams.process.life import log_as_json, on_stop_signal


class Arguments(BaseModel):
    """Arguments of `look_up`."""

    what: str


async def look_up(arguments: Arguments, context: ToolCallContext) -> str:
    """Look something up, slowly."""
    graphs = sys.modules[app_graphs()]
    graphs.note(context.thread_key, "tool")
    await graphs.halt(context.thread_key)
    return f"{arguments.what}: found"


def app_graphs() -> str:
    """Return the name under which the catalog loaded the sample graphs."""
    return next(name for name in sys.modules if name.startswith("turnstream_graph_"))


async def run(name: str) -> None:
    settings = load_settings()
    log_as_json(settings.log_level, exception_text=settings.log_exception_text)
    async with model_of(settings) as model:
        catalog = Catalog()
        slow = FunctionTool(look_up, Arguments, timeout_s=100.0, effects=None)
        agent = AgentSettings(tool_timeout_s=slow.timeout_s)
        catalog.add(agent_entry(Services().adding(MODEL, model), [*built_in_tools(), slow], agent))
        catalog.load(settings.langgraph_json)
        async with open_worker(settings, name=name, catalog=catalog) as worker:
            on_stop_signal(worker.stop)
            settle_memory()
            await worker.run()


def become(asked: dict[str, Any]) -> None:
    """Turn this fork into a worker that writes to its log."""
    log = os.open(asked["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    os.environ.update(asked["env"])
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run(asked["name"]))


def main() -> None:
    print(json.dumps({"pid": os.getpid()}), flush=True)
    for line in sys.stdin:
        pid = os.fork()
        if not pid:
            become(json.loads(line))
            os._exit(0)
        print(json.dumps({"pid": pid}), flush=True)


if __name__ == "__main__":
    main()
