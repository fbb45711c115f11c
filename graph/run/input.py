"""What a turn is given, and the LangGraph call that runs it. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from langgraph.types import Command

from turnstream.graph.langgraph.tool_answers import signed
from turnstream.schemas.ids import assistant_id_of, split_thread_key
from turnstream.schemas.records.command_rules import IDENTITY_KEYS
from turnstream.schemas.records.results import Carried
from turnstream.schemas.text import clean_json

if TYPE_CHECKING:
    from collections.abc import Collection

    from langchain_core.runnables import RunnableConfig

STRICT_RESUME = "__pregel_strict_resume"
"""Makes LangGraph refuse an answer to a question that is not open. It has no public name; a test
holds that it still works."""

RECURSION_LIMIT = 100
"""Steps of one turn, unless its config or its graph says otherwise."""

RECURSION_LIMIT_MAX = 10_000
"""Steps of one turn at most, unless a setting says otherwise; `create_agent` asks for 9,999."""


class AuthUser(dict[str, Any]):
    """The caller as graphs know LangGraph's `BaseUser`: by keys and by attributes."""

    @property
    def identity(self) -> str:
        """Return who it is."""
        return str(self["identity"])

    @property
    def display_name(self) -> str:
        """Return a name for people."""
        return str(self.get("display_name") or self.identity)

    @property
    def is_authenticated(self) -> bool:
        """Return whether somebody checked who it is."""
        return bool(self.get("is_authenticated", True))

    @property
    def permissions(self) -> list[str]:
        """Return what the caller may do."""
        return [str(one) for one in self.get("permissions") or ()]


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnInput:
    """One turn as a graph sees it.

    A start has `text` (one user message, id = turn id) or `input` (the graph's own). A resume has
    `answers` by interrupt id, and `askers`: the tool calls that asked, by interrupt id. `again`: an
    earlier attempt had this turn, and `carried` is what it handed on. `config` and `metadata` are
    the caller's, in LangGraph's form; `config` may have a `context` too. `identity` replaces what
    the caller's config says about the user.
    """

    turn_id: str
    thread_key: str
    kind: Literal["start", "resume"] = "start"
    text: str = ""
    input: Any = None
    answers: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)
    again: bool = False
    carried: Carried = field(default_factory=Carried)
    graph: str = ""
    identity: dict[str, Any] | None = None
    askers: dict[str, str] = field(default_factory=dict)

    @property
    def given(self) -> object:
        """Return the graph's input; None for a resume. NUL and lone surrogates become U+FFFD."""
        if self.kind == "resume":
            return None
        if self.input is None:
            message = {"role": "user", "content": clean_json(self.text), "id": self.turn_id}
            return {"messages": [message]}
        return clean_json(self.input)

    @property
    def thread_id(self) -> str:
        """Return the thread's id as its client knows it; the saver adds the tenant."""
        return split_thread_key(self.thread_key)[1]

    @property
    def configurable(self) -> dict[str, object]:
        """Return what nodes find in `config["configurable"]`.

        The caller cannot set what LangGraph keeps for itself, nor what names the run; `identity`
        replaces all that the caller says about who asks.
        """
        given = self.config.get("configurable")
        configurable = {
            key: value
            for key, value in (clean_json(given) if isinstance(given, dict) else {}).items()
            if not key.startswith(("__", "checkpoint_"))
        }
        if self.identity is not None:
            for key in IDENTITY_KEYS:
                configurable.pop(key, None)
            configurable |= self.identity
        user = configurable.get("langgraph_auth_user")
        if isinstance(user, dict) and isinstance(user.get("identity"), str):
            configurable["langgraph_auth_user"] = AuthUser(user)
        return configurable | self._ids

    @property
    def context(self) -> dict[str, object]:
        """Return the context that the caller gave, an empty one without."""
        given = self.config.get("context")
        return clean_json(given) if isinstance(given, dict) else {}

    @property
    def _ids(self) -> dict[str, object]:
        ids: dict[str, object] = {"thread_id": self.thread_id, "run_id": self.turn_id}
        if self.graph:
            ids |= {"graph_id": self.graph, "assistant_id": assistant_id_of(self.graph)}
        return ids

    def runnable_config(
        self, *, limit: int | None = None, limit_max: int = RECURSION_LIMIT_MAX
    ) -> RunnableConfig:
        """Return the config of every call for this turn, the same in each attempt.

        `run_id` in the metadata makes LangGraph go on with an unfinished run instead of applying
        the input again. `limit` is the graph's own recursion limit; the caller's goes before it,
        and neither beyond `limit_max`.
        """
        given = clean_json(self.config)
        configurable = self.configurable
        if self.kind == "resume":
            configurable[STRICT_RESUME] = True
        metadata = given.get("metadata")
        config: RunnableConfig = {
            "configurable": configurable,
            "metadata": {
                **(metadata if isinstance(metadata, dict) else {}),
                **clean_json(self.metadata),
                **self._ids,
                "turn_id": self.turn_id,
            },
            "recursion_limit": min(
                _positive(given.get("recursion_limit")) or limit or RECURSION_LIMIT, limit_max
            ),
        }
        if isinstance(tags := given.get("tags"), list):
            config["tags"] = [str(tag) for tag in tags]
        if concurrency := _positive(given.get("max_concurrency")):
            config["max_concurrency"] = concurrency
        return config

    def call(self, pending: Collection[str] | None = None) -> object:
        """Return what to give to the graph.

        `pending` are the questions that are still open, in a later attempt of a resume. Answers are
        stored only when their task finishes, so only answers to open questions are given again.
        """
        if self.kind == "start":
            return self.given
        answers = signed(clean_json(self.answers), self.askers)
        if pending is not None:
            answers = {key: value for key, value in answers.items() if key in pending}
            if not answers:
                return None
        return Command(resume=answers)


def _positive(value: object) -> int:
    """Return a positive integer as it is, 0 for anything else."""
    return value if isinstance(value, int) and value > 0 and value is not True else 0
