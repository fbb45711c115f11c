"""What a turn is given, and the LangGraph call that runs it. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from langgraph.types import Command

from turnstream.graph.values import clean
from turnstream.schemas.results import Carried

if TYPE_CHECKING:
    from collections.abc import Collection

    from langchain_core.runnables import RunnableConfig

STRICT_RESUME = "__pregel_strict_resume"
"""Makes LangGraph refuse an answer to a question that is not open. It has no public name; a test
holds that it still works."""

RECURSION_LIMIT = 100
"""Steps of one turn, unless its config says otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnInput:
    """One turn as a graph sees it.

    A start has `text` (one user message, id = turn id) or `input` (the graph's own); a resume has
    `answers` by interrupt id. `again`: an earlier attempt had this turn, and `carried` is what it
    handed on. `config` and `metadata` are the caller's, as LangGraph knows them.
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

    @property
    def given(self) -> Any:
        """Return the graph's input; None for a resume. NUL and lone surrogates become U+FFFD."""
        if self.kind == "resume":
            return None
        if self.input is None:
            message = {"role": "user", "content": clean(self.text), "id": self.turn_id}
            return {"messages": [message]}
        return clean(self.input)

    def runnable_config(self) -> RunnableConfig:
        """Return the config of every call for this turn, the same in each attempt.

        `run_id` in the metadata makes LangGraph go on with an unfinished run instead of applying
        the input again. The caller cannot set what LangGraph keeps for itself.
        """
        given = clean(self.config)
        configurable = {
            key: value
            for key, value in (given.get("configurable") or {}).items()
            if not key.startswith("__") and not key.startswith("checkpoint_")
        }
        configurable["thread_id"] = self.thread_key
        if self.kind == "resume":
            configurable[STRICT_RESUME] = True
        config: RunnableConfig = {
            "configurable": configurable,
            "metadata": {
                **clean(self.metadata),
                "run_id": self.turn_id,
                "turn_id": self.turn_id,
            },
            "recursion_limit": RECURSION_LIMIT,
        }
        limit = given.get("recursion_limit")
        if isinstance(limit, int) and 0 < limit <= 10 * RECURSION_LIMIT:
            config["recursion_limit"] = limit
        if isinstance(tags := given.get("tags"), list):
            config["tags"] = [str(tag) for tag in tags]
        return config

    def call(self, pending: Collection[str] | None = None) -> Any:
        """Return what to give to the graph.

        `pending`, in a later attempt of a resume: the questions that are still open. Answers are
        stored only when their task finishes, so those are given again and the others left out.
        """
        if self.kind == "start":
            return self.given
        answers = clean(self.answers)
        if pending is not None:
            answers = {key: value for key, value in answers.items() if key in pending}
            if not answers:
                return None
        return Command(resume=answers)
