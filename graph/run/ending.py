"""What an attempt comes to, and the ends that a graph reaches by itself: an answer, questions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from turnstream.graph.run.last_words import last_answer
from turnstream.graph.run.questions import said_questions
from turnstream.schemas.records.results import Outcome
from turnstream.schemas.text import clean_text, text_sha256

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from langchain_core.runnables import RunnableConfig

    from turnstream.graph.langgraph.factories import AnyPregel
    from turnstream.graph.ports.commits import Asked, SaverCall
    from turnstream.graph.run.said import Said


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOutcome:
    """What an attempt came to: `outcome` to commit with `closing`, or None if it was drained.

    `instead`: what it comes to if the ledger refuses the outcome, because the turn was told to stop
    (with this cause) before the outcome could be stored.
    """

    outcome: Outcome | None
    closing: tuple[SaverCall, ...] = ()
    instead: Callable[[str], Awaitable[RunOutcome]] | None = None


def interrupted(said: Said, asked: Mapping[str, Asked]) -> Outcome:
    """Return the outcome of a turn that asks."""
    return Outcome(
        status="interrupted",
        interrupts=said_questions(said, asked),
        usage=said.usage(),
        lost_usage=said.lost_usage(),
    )


async def completed(
    said: Said, graph: AnyPregel, config: RunnableConfig, values: object
) -> Outcome:
    """Return the outcome of a graph that came to its end.

    Its answer is the last one in `values`, those of the last root checkpoint, and without them the
    last one that was said. Where this attempt said none, an earlier one did.
    """
    message_id, text = last_answer(values)
    answer = None if text else said.answer()
    if answer is not None:
        message_id, text = answer.message_id, clean_text(answer.text)
    if not text and "messages" in graph.channels:
        message_id, text = last_answer((await graph.aget_state(config)).values)
    return Outcome(
        status="completed",
        message_id=message_id,
        text=text,
        sha256=text_sha256(text),
        usage=said.usage(),
        lost_usage=said.lost_usage(),
    )
