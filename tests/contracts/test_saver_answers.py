"""Our saver, in a session, gives LangGraph the same answers as the stock one."""

from __future__ import annotations

import operator
import uuid
from typing import TYPE_CHECKING, Annotated, Any, TypedDict

import pytest
from langchain_core.messages import AIMessage
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import Command, Send, StateSnapshot, interrupt
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool

from tests.connectors.postgres.run_facts import LastBy
from turnstream.connectors.memory.emitter import MemoryEmitter
from turnstream.connectors.postgres.checkpoints.commit_pool import commit_pool
from turnstream.connectors.postgres.checkpoints.saver import FencedSaver
from turnstream.graph.langgraph.last_checkpoint import ends_after

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

pytestmark = pytest.mark.promises("P13")


class State(TypedDict, total=False):
    log: Annotated[list[str], operator.add]
    note: str
    number: int


def says(name: str) -> Any:
    async def node(state: State) -> State:
        return {"log": [name]}

    return node


def builder(state: Any = State) -> Any:
    return StateGraph(state)


def one_node() -> Any:
    return builder().add_node("a", says("a")).add_edge(START, "a").compile


def parallel() -> Any:
    made = builder()
    for name in "abc":
        made.add_node(name, says(name)).add_edge(START, name)
    made.add_node("join", says("join")).add_edge(["a", "b", "c"], "join")
    return made.compile


def sends() -> Any:
    async def fan(state: State) -> State:
        return {"note": "fanned", "number": 3}

    async def work(state: dict[str, Any]) -> State:
        return {"log": [f"w{state['n']}"]}

    made = builder().add_node("fan", fan).add_node("work", work).add_edge(START, "fan")
    made.add_conditional_edges("fan", lambda s: [Send("work", {"n": n}) for n in range(3)])
    return made.compile


def subgraph(**options: Any) -> Callable[[], Any]:
    def make() -> Any:
        inner = builder().add_node("x", says("x")).add_node("y", says("y"))
        inner.add_edge(START, "x").add_edge("x", "y")
        made = builder().add_node("sub", inner.compile(**options)).add_node("z", says("z"))
        return made.add_edge(START, "sub").add_edge("sub", "z").compile

    return make


def interrupts() -> Any:
    def asks(name: str) -> Any:
        async def node(state: State) -> State:
            return {"log": [f"{name}={interrupt({'ask': name})}"]}

        return node

    made = builder().add_node("plain", says("plain")).add_edge(START, "plain")
    for name in ("p", "q"):
        made.add_node(name, asks(name)).add_edge(START, name)
    return made.compile


def nested_interrupt() -> Any:
    async def ask(state: State) -> State:
        return {"log": [str(interrupt("inner?"))]}

    inner = builder().add_node("before", says("before")).add_node("ask", ask)
    inner.add_edge(START, "before").add_edge("before", "ask")
    made = builder().add_node("sub", inner.compile()).add_node("beside", says("beside"))
    return made.add_edge(START, "sub").add_edge(START, "beside").compile


def messages() -> Any:
    async def node(state: MessagesState) -> dict[str, Any]:
        return {"messages": [AIMessage("answer", id="m")]}

    return builder(MessagesState).add_node("n", node).add_edge(START, "n").compile


def commands() -> Any:
    async def first(state: State) -> Command[Any]:
        return Command(update={"note": "went"}, goto="second")

    made = builder().add_node("first", first, destinations=("second",))
    return made.add_node("second", says("second")).add_edge(START, "first").compile


CASES: dict[str, Callable[[], Any]] = {
    "one node": one_node,
    "parallel": parallel,
    "sends": sends,
    "subgraph": subgraph(),
    "subgraph with a life of its own": subgraph(checkpointer=True),
    "interrupts": interrupts,
    "interrupt in a subgraph": nested_interrupt,
    "messages": messages,
    "commands": commands,
}


def inputs(case: str) -> list[Any]:
    if case == "messages":
        return [{"messages": [("user", "q")]}, {"messages": [("user", "r")]}]
    if "interrupt" in case:
        return [{"log": ["in"]}, Command, None, {"log": ["next turn"]}]
    return [{"log": ["in"]}, {"log": ["second turn"]}]


def told(snapshot: Any) -> dict[str, Any]:
    """A snapshot without ids and times."""
    return {
        "values": {
            key: [getattr(item, "content", item) for item in value]
            if isinstance(value, list)
            else value
            for key, value in snapshot.values.items()
        },
        "next": snapshot.next,
        "source": snapshot.metadata["source"],
        "step": snapshot.metadata["step"],
        "parents": sorted(snapshot.metadata.get("parents", {})),
        "has_parent": snapshot.parent_config is not None,
        "tasks": [
            (
                task.name,
                task.path,
                task.error,
                [asked.value for asked in task.interrupts],
                task.result,
                told(task.state) if isinstance(task.state, StateSnapshot) else bool(task.state),
            )
            for task in snapshot.tasks
        ],
        "interrupts": [asked.value for asked in snapshot.interrupts],
    }


@pytest.fixture
async def pool(ledger_dsn: str) -> AsyncIterator[Any]:
    async with AsyncConnectionPool(
        ledger_dsn,
        min_size=2,
        max_size=4,
        kwargs={"autocommit": True, "prepare_threshold": 0, "row_factory": dict_row},
        open=False,
    ) as opened:
        yield opened


async def answers(case: str, pool: Any, saver: Any) -> list[Any]:
    graph = CASES[case]()(checkpointer=saver)
    key = f"default/{uuid.uuid4()}"
    config: Any = {"configurable": {"thread_id": key}}
    seen = []
    async with pool.connection() as connection:
        cursor = await connection.execute(
            "INSERT INTO threads (thread_key, partition, epoch)"
            " VALUES (%s, 0, (timeline() << 40) + 1) RETURNING epoch",
            (key,),
        )
        epoch = (await cursor.fetchone())["epoch"]
    for given in inputs(case):
        call = given
        if given is Command or given is None:
            pending = (await graph.aget_state(config)).interrupts
            if not pending:
                continue
            call = Command(resume={pending[0].id: f"re {pending[0].value}"})
        if isinstance(saver, FencedSaver):
            session = saver.session(
                thread_key=key,
                turn_id=uuid.uuid4(),
                epoch=epoch,
                log=MemoryEmitter(),
            )
            session.follow(LastBy(ends_after(graph)))
            with session.bound():
                await graph.ainvoke(call, config, durability="sync")
                await session.flush()
        else:
            await graph.ainvoke(call, config, durability="sync")
        seen.append(told(await graph.aget_state(config, subgraphs=True)))
        seen.append([told(past) async for past in graph.aget_state_history(config)])
    async with pool.connection() as connection:
        cursor = await connection.execute(
            "SELECT regexp_replace(checkpoint_ns, '[0-9a-f-]{36}', '', 'g') AS ns,"
            " channel, idx, task_path FROM checkpoint_writes WHERE thread_id = %s ORDER BY 1,2,3,4",
            (key,),
        )
        seen.append([tuple(row.values()) for row in await cursor.fetchall()])
    return seen


@pytest.mark.parametrize("case", CASES)
async def test_answers_as_stock(case: str, pool: Any, ledger_dsn: str) -> None:
    stock = await answers(case, pool, AsyncPostgresSaver(pool))
    async with commit_pool(ledger_dsn) as commits:
        ours = await answers(case, pool, FencedSaver(pool, commits))
    assert ours == stock
