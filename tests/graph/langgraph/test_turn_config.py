"""What nodes of brought graphs find: ids, who asks, context, store; and what they answer."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import pytest
from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableConfig
from langgraph.config import get_config, get_store
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.runtime import Runtime, get_runtime
from langgraph.store.memory import InMemoryStore
from pydantic import BaseModel
from typing_extensions import TypedDict

from tests.graph.run.test_runner import (
    KEY,
    Thread,
    answers_with,
    chain,
    entry,
    model,
    opened,
    start,
)
from turnstream.graph.langgraph.catalog import GraphEntry
from turnstream.graph.langgraph.factories import factory_of
from turnstream.graph.langgraph.run_context import run_context
from turnstream.graph.run.control import TurnControl
from turnstream.graph.run.deadlines import TurnLimits
from turnstream.graph.run.runner import run_turn
from turnstream.schemas.errors import InvalidRequestError
from turnstream.schemas.ids import assistant_id_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from turnstream.schemas.records.results import Outcome


@pytest.fixture
async def thread(ledger_dsn: str) -> AsyncIterator[Thread]:
    async with opened(ledger_dsn) as made:
        yield made


async def ended(thread: Thread, graph: GraphEntry, **given: Any) -> Outcome:
    turn = start(thread.new_turn(), **given)
    outcome = (await thread.run(graph, turn)).outcome
    assert outcome is not None
    return outcome


class Seen:
    """A graph whose node notes what it is given."""

    def __init__(self, context_schema: Any = None, **compiled: Any) -> None:
        builder = StateGraph(MessagesState, context_schema=context_schema)
        builder.add_node("node", self.node)
        builder.add_edge(START, "node")
        self.entry = GraphEntry(name="g", graph=builder.compile(**compiled))

    async def node(self, state: MessagesState, runtime: Runtime[Any]) -> dict[str, Any]:
        self.config = get_config()
        self.runtime = runtime
        self.context = get_runtime().context
        try:
            self.store = get_store()
        except RuntimeError:
            self.store = None
        return {}


async def test_a_node_finds_its_clients_ids(thread: Thread) -> None:
    graph = Seen()
    given = {
        "configurable": {
            "model": "m",
            "thread_id": "forged",
            "run_id": "forged",
            "checkpoint_id": "forged",
            "__pregel_x": 1,
        },
        "metadata": {"mine": "x"},
        "tags": ["a"],
        "max_concurrency": 3,
    }
    turn_id = thread.new_turn()
    await thread.run(graph.entry, start(turn_id, graph="g", config=given, metadata={"page": 2}))
    configurable = graph.config["configurable"]
    ids = {
        "thread_id": "t",
        "run_id": turn_id,
        "graph_id": "g",
        "assistant_id": assistant_id_of("g"),
    }
    assert {key: configurable[key] for key in ids} == ids
    assert configurable["model"] == "m"
    assert "forged" not in str(configurable)
    assert ids.items() <= graph.config["metadata"].items()
    assert {"mine": "x", "page": 2}.items() <= graph.config["metadata"].items()
    assert graph.config["max_concurrency"] == 3
    info = graph.runtime.server_info
    assert info is not None
    assert (info.graph_id, info.user) == ("g", None)


async def test_two_tenants_with_one_thread_id_share_nothing(thread: Thread) -> None:
    seen: list[Any] = []

    async def node(state: MessagesState, config: RunnableConfig) -> dict[str, Any]:
        asked = {"configurable": {"thread_id": config["configurable"]["thread_id"]}}
        graph = chain(MessagesState, node=node).compile(
            checkpointer=config["configurable"]["__pregel_checkpointer"]
        )
        inside = await graph.aget_state(asked)
        foreign = KEY if len(seen) == 1 else "other/t"
        other = await graph.aget_state({"configurable": {"thread_id": foreign}})
        history = [one async for one in graph.aget_state_history(asked)]
        configs = {one.config["configurable"]["thread_id"] for one in (inside, *history)}
        seen.append((configs, len(inside.values.get("messages", [])), dict(other.values)))
        return {"messages": [AIMessage(f"{len(state['messages'])} messages")]}

    graph = entry(chain(MessagesState, node=node))
    assert (await ended(thread, graph)).text == "1 messages"
    key = "other/t"
    thread.sql(
        "INSERT INTO threads (thread_key, partition, epoch)"
        " SELECT %s, 0, epoch FROM threads WHERE thread_key = %s",
        key,
        KEY,
    )
    thread.sql("UPDATE threads SET epoch = epoch + 1 WHERE thread_key = %s", key)
    turn_id = thread.new_turn()
    thread.sql(
        "UPDATE turns SET tenant = 'other', thread_key = %s WHERE turn_id = %s", key, turn_id
    )
    row = thread.sql("SELECT epoch FROM threads WHERE thread_key = %s", key)[0]
    log = thread.log
    import uuid

    session = thread.saver.session(
        thread_key=key, turn_id=uuid.UUID(turn_id), epoch=row["epoch"], log=log
    )
    turn = dataclasses.replace(start(turn_id), thread_key=key)
    with session.bound():
        ran = await run_turn(graph, turn, log, thread.saver, TurnControl(), commits=session)
        assert ran.outcome is not None
        await thread.saver.commit_outcome(session, ran.outcome, ran.closing)
    assert ran.outcome.text == "1 messages"  # nothing of the other tenant's
    assert (await ended(thread, graph)).text == "3 messages"
    assert [one[0] for one in seen] == [{"t"}] * 3
    assert [one[2] for one in seen] == [{}] * 3  # a key of another tenant names nothing


IDENTITY = {"tenant_id": "acme", "user_id": "ann", "roles": ["reader"]}


async def test_who_asks_is_not_the_callers_to_say(thread: Thread) -> None:
    graph = Seen()
    forged = {
        "user_id": "root",
        "roles": ["operator"],
        "langgraph_auth_user": {"identity": "root", "permissions": ["all"]},
        "langgraph_auth_user_id": "root",
        "langgraph_auth_permissions": ["all"],
    }
    config = {"configurable": {**forged, "model": "m"}}
    await ended(thread, graph.entry, config=config, identity={"tenant_id": "acme"})
    assert "root" not in str(graph.config["configurable"])
    assert graph.config["configurable"]["tenant_id"] == "acme"
    assert graph.config["configurable"]["model"] == "m"
    await ended(thread, graph.entry, config=config)  # an edge without auth: a client's pass
    user = graph.runtime.server_info.user  # type: ignore[union-attr]
    assert user is not None
    assert (user.identity, user["identity"], user.is_authenticated) == ("root", "root", True)
    assert list(user.permissions) == ["all"]


@dataclasses.dataclass
class Knobs:
    """A context as a dataclass."""

    model: str = "small"
    limit: int = 5


class Wanted(BaseModel):
    """A context with a field that has to be given."""

    user: str
    limit: int = 5


class Typed(TypedDict, total=False):
    """A context as a typed dictionary."""

    model: str


@pytest.mark.parametrize(
    ("schema", "given", "configurable", "found"),
    [
        (Knobs, {}, {}, Knobs()),
        (Knobs, {}, {"model": "large", "other": 1}, Knobs("large")),
        (Knobs, {"model": "huge"}, {"model": "large", "limit": 1}, Knobs("huge", 1)),
        (Knobs, {"unknown": 1}, {}, Knobs()),
        (Wanted, {}, {}, None),
        (Wanted, {"user": "ann"}, {"limit": "7"}, Wanted(user="ann", limit=7)),
        (Typed, {"model": "m", "x": 1}, {"y": 1}, {"model": "m"}),
        (None, {"any": "thing"}, {"other": 1}, {"any": "thing"}),
        (None, {}, {"other": 1}, None),
    ],
)
def test_the_context_is_what_was_given_then_configurable_then_defaults(
    schema: Any, given: Any, configurable: Any, found: Any
) -> None:
    assert run_context(schema, given, configurable) == found


@pytest.mark.parametrize(
    ("schema", "given", "says"),
    [
        (Wanted, {"limit": 1}, "user: Field required"),
        (Wanted, {"user": "a", "limit": "SECRET"}, "limit: Input should be a valid integer"),
    ],
)
def test_a_context_that_the_schema_refuses_is_named(schema: Any, given: Any, says: str) -> None:
    with pytest.raises(InvalidRequestError) as raised:
        run_context(schema, given, {})
    assert raised.value.code == "invalid_context"
    assert says in str(raised.value)
    assert "SECRET" not in str(raised.value)


async def test_a_turn_has_its_context(thread: Thread) -> None:
    graph = Seen(Knobs)
    await ended(thread, graph.entry)
    assert graph.context == Knobs()
    await ended(thread, graph.entry, config={"context": {"limit": 9}})
    assert graph.context == graph.runtime.context == Knobs(limit=9)
    wanted = Seen(Wanted)
    outcome = await ended(thread, wanted.entry, config={"context": {"limit": 9}})
    assert (outcome.status, outcome.code) == ("failed", "invalid_context")


async def test_a_graph_has_the_store_that_it_was_compiled_with(thread: Thread) -> None:
    store = InMemoryStore()
    graph = Seen(store=store)
    await ended(thread, graph.entry)
    assert graph.store is store
    assert graph.runtime.store is store


def endless() -> StateGraph[Any, Any, Any, Any]:
    async def again(state: MessagesState) -> dict[str, Any]:
        return {}

    builder = StateGraph(MessagesState)
    builder.add_node("again", again)
    builder.add_edge(START, "again")
    builder.add_conditional_edges("again", lambda _: "again", ["again"])
    return builder


@pytest.mark.parametrize(
    ("own", "asked", "limit"),
    [(None, None, 100), (130, None, 130), (130, 7, 7), (9999, None, 150), (None, 9999, 150)],
)
async def test_the_recursion_limit_is_the_callers_then_the_graphs_and_bounded(
    thread: Thread, own: int | None, asked: int | None, limit: int
) -> None:
    graph = endless().compile()
    if own is not None:
        graph = graph.with_config({"recursion_limit": own})
    turn = start(thread.new_turn(), config={} if asked is None else {"recursion_limit": asked})
    session = thread.attempt(turn.turn_id)
    with session.bound():
        ran = await run_turn(
            GraphEntry(name="g", graph=graph),
            turn,
            thread.log,
            thread.saver,
            TurnControl(),
            commits=session,
            limits=TurnLimits(recursion_limit_max=150),
        )
    assert ran.outcome is not None
    assert ran.outcome.code == "step_limit"
    assert session.progress.step_of("") == limit


async def test_the_answer_is_the_states_last_message(thread: Thread) -> None:
    titles = model("A short title")

    async def titled(state: MessagesState) -> dict[str, Any]:
        await titles.ainvoke("a title for this")
        return {}

    graph = entry(chain(MessagesState, answer=answers_with(model("the answer")), titled=titled))
    outcome = await ended(thread, graph)
    assert outcome.text == "the answer"
    state = await graph.with_saver(thread.saver).aget_state({"configurable": {"thread_id": KEY}})
    assert outcome.message_id == state.values["messages"][-1].id

    async def only_says(state: MessagesState) -> dict[str, Any]:
        await model("said, not stored").ainvoke("x")
        return {}

    assert (await ended(thread, entry(chain(MessagesState, node=only_says)))).text == (
        "said, not stored"
    )


async def test_a_factory_makes_the_graph_of_each_run(thread: Thread) -> None:
    made: list[Any] = []

    def make(config: RunnableConfig) -> Any:
        made.append(config["configurable"])
        return chain(MessagesState, answer=answers_with(model(config["configurable"]["word"])))

    graph = GraphEntry(name="g", factory=factory_of(make, "here"))
    for word in ("one", "two"):
        assert (await ended(thread, graph, config={"configurable": {"word": word}})).text == word
    assert [one["word"] for one in made] == ["one", "two"]
    assert {one["thread_id"] for one in made} == {"t"}
    outcome = await ended(thread, graph)
    assert (outcome.status, outcome.code) == ("failed", "graph_error")
    assert outcome.message.startswith("KeyError (error id ")
    assert (await ended(thread, graph, config={"configurable": {"word": "three"}})).text == "three"


async def test_a_factorys_resources_are_there_until_the_run_is_over(thread: Thread) -> None:
    import contextlib

    steps: list[str] = []

    @contextlib.asynccontextmanager
    async def make(config: RunnableConfig) -> AsyncIterator[Any]:
        async def node(state: MessagesState) -> dict[str, Any]:
            steps.append("ran")
            return {"messages": [AIMessage("fine")]}

        steps.append("opened")
        yield chain(MessagesState, node=node)
        steps.append("closed")
        raise OSError("closing failed")

    graph = GraphEntry(name="g", factory=factory_of(make, "here"))
    outcome = await ended(thread, graph)
    assert (outcome.status, outcome.text) == ("completed", "fine")
    assert steps == ["opened", "ran", "closed"]
