"""What an attempt begins with: the turn as its graph sees it, and its first record. Pure."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

from turnstream.connectors.postgres.ledger.rows import Resolved
from turnstream.graph.run.input import TurnInput
from turnstream.graph.run.questions import wrong_answer
from turnstream.schemas.errors import TurnstreamError
from turnstream.schemas.records.commands import Command, ResumeTurn, StartTurn

if TYPE_CHECKING:
    from turnstream.connectors.postgres.ledger.rows import Claim
    from turnstream.schemas.records.results import Outcome
    from turnstream.schemas.topics import Topics


def answers_of(command: Command) -> dict[str, object]:
    """Return what a resume answers, by interrupt id; nothing for other commands."""
    return json.loads(command.answers) if isinstance(command, ResumeTurn) else {}


def turn_input(
    claim: Claim, command: Command, answers: dict[str, object], topics: Topics
) -> TurnInput:
    """Return the turn as its graph sees it.

    An edge has put the caller's identity into the config; on a tenant's own topic a record cannot
    carry one.
    """
    if not isinstance(command, (StartTurn, ResumeTurn)):
        raise TurnstreamError(f"a {type(command).__name__} cannot be run")
    return TurnInput(
        turn_id=str(claim.turn_id),
        thread_key=claim.thread_key,
        kind=claim.kind,
        text=command.text if isinstance(command, StartTurn) else "",
        input=json.loads(command.input)
        if isinstance(command, StartTurn) and command.input
        else None,
        answers=answers,
        config=json.loads(command.config) if command.config else {},
        metadata=json.loads(command.metadata) if command.metadata else {},
        again=claim.started_again,
        carried=claim.carried,
        graph=claim.graph,
        askers=claim.answering.askers if claim.answering is not None else {},
        identity={"tenant_id": claim.tenant} if topics.tenant_of(claim.src_topic) else None,
    )


def refused_answer(claim: Claim, command: Command, answers: dict[str, object]) -> str:
    """Return why a resume is refused although it names the open interrupt, "" if it is not."""
    if claim.outcome is not None or claim.answering is None:
        return ""
    if not isinstance(command, ResumeTurn):
        return ""
    return wrong_answer(answers, claim.answering.schemas)


def start_fields(claim: Claim, *, worker: str, config_hash: str) -> dict[str, object]:
    """Return the fields of `AttemptStarted`: what was committed before, and where from (W2)."""
    return {
        "reason": reason_of(claim),
        "base": claim.base,
        "keep_n": claim.keep_n,
        "high_n": claim.high_n,
        "keep": list(claim.keep),
        "worker": worker,
        "graph": claim.graph,
        "input_sha256": hashlib.sha256(claim.body).hexdigest(),
        "source_topic": claim.src_topic,
        "source_partition": claim.src_part,
        "source_offset": claim.src_off,
        "config_hash": config_hash,
    }


def reason_of(claim: Claim) -> str:
    """Return why the attempt begins (W2).

    An outcome that the ledger decided has no attempt, and `base` may be one that ended otherwise.
    """
    if claim.outcome is not None and claim.outcome.attempts:
        return "decided"
    return "again" if claim.started_again else "first"


def left_open(claim: Claim, outcome: Outcome) -> list[Resolved]:
    """Return the questions that a resume did not answer and that can no longer be answered."""
    if claim.answering is None or outcome.status in ("interrupted", "rejected"):
        return []
    answered = {one.interrupt_id for one in claim.resolved}
    rev = max((one.rev for one in claim.resolved), default=0)
    left = [one for one in claim.answering.ids if one not in answered]
    return [Resolved(one, rev + k, "superseded") for k, one in enumerate(left, 1)]
