"""From a run's request to a command on the `turns` topic, for every surface that starts runs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from turnstream.schemas.errors import ConflictError, InvalidRequestError
from turnstream.schemas.ids import assistant_id_of, check_thread_id, thread_key
from turnstream.streams.edge.ask.run_request import (
    check_input,
    own_config,
    refuse,
    refuse_unsupported,
)
from turnstream.streams.edge.ask.submit import Asked
from turnstream.streams.edge.surfaces.run_events import MODES

if TYPE_CHECKING:
    from turnstream.schemas.records.commands import ResumeTurn, StartTurn
    from turnstream.streams.edge.ask.submit import Submitted
    from turnstream.streams.edge.routes.bodies import RunBody
    from turnstream.streams.edge.routes.deps import Rest

DEFAULT_MODES = frozenset({"values"})
# LangGraph's interrupt ids (xxh3-128)
_INTERRUPT_ID = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """A run that Kafka has."""

    key: str
    thread_id: str
    run_id: str
    graph: str
    submitted: Submitted


async def start(
    rest: Rest, thread_id: str, body: RunBody, *, new_thread: bool = False, wait: bool = True
) -> Started:
    """Start or resume a run; `new_thread`: the thread's id was made for it.

    Raises the errors that the edge answers with: 404 for an unknown thread or assistant, 409 for a
    rejected turn or a closed question, 413, 422 for a wrong or unsupported field, 503.
    """
    graph = rest.edge.catalog.find(body.assistant_id).name
    _check(body)
    own = own_config(
        body.config,
        body.context,
        subgraphs=bool(body.stream_subgraphs),
        modes=modes_of(body.stream_mode, DEFAULT_MODES),
    )
    asked = Asked(
        thread_id=thread_id,
        graph=graph,
        config=own,
        metadata=body.metadata or None,
        expires_at=body.expires_at or 0,
    )
    create = new_thread or body.if_not_exists == "create"
    command: StartTurn | ResumeTurn
    if resumes(body):
        key = await make_if_needed(rest, thread_id, create=create, graph=graph)
        await _check_head(rest, key, body)
        answers = await _answers(rest, key, body)
        command = rest.edge.submit.resume_of(rest.caller, asked, answers)
    else:
        text = body.input if isinstance(body.input, str) else ""
        command = rest.edge.submit.start_of(
            rest.caller,
            asked,
            text=text,
            input=None if text else body.input,
            on_busy=body.multitask_strategy or "enqueue",
        )
        # the thread is made last, so that a refused run makes none
        key = await make_if_needed(rest, thread_id, create=create, graph=graph)
        await _check_head(rest, key, body)
    submitted = await rest.edge.submit.send(command, wait=wait)
    return Started(
        key=key, thread_id=thread_id, run_id=submitted.turn_id, graph=graph, submitted=submitted
    )


async def make_if_needed(rest: Rest, thread_id: str, *, create: bool, graph: str) -> str:
    """Return the key of a thread that is about to run a graph; with `create`, make the thread.

    Raises `NotFoundError` (404), `InvalidRequestError` (422), and `UnavailableError` (503) if the
    edge takes no run. That is checked before the database is asked, which is then busy.
    """
    key = thread_key(rest.caller.tenant, check_thread_id(thread_id))
    rest.edge.submit.check_room()
    if not create:
        await rest.key(thread_id)
    about = {"graph_id": graph, "assistant_id": assistant_id_of(graph)}
    await rest.threads.ensure(key, about)
    return key


def modes_of(stream_mode: str | list[str] | None, default: frozenset[str]) -> frozenset[str]:
    """Return the modes asked for; raises `InvalidRequestError` (`unsupported_stream_mode`)."""
    asked = [stream_mode] if isinstance(stream_mode, str) else stream_mode
    modes = frozenset(asked or default)
    if unknown := sorted(modes - MODES):
        raise InvalidRequestError(
            f"stream_mode {unknown[0][:100]!r} is not supported; use {', '.join(sorted(MODES))}",
            code="unsupported_stream_mode",
            field="stream_mode",
        )
    return modes


def resumes(body: RunBody) -> bool:
    """Return whether a run answers a question."""
    return body.command is not None and body.command.resume is not None


def _check(body: RunBody) -> None:
    """Raise `InvalidRequestError` for unsupported fields and for missing input."""
    refuse_unsupported(
        interrupt_before=body.interrupt_before,
        interrupt_after=body.interrupt_after,
        webhook=body.webhook,
        after_seconds=body.after_seconds,
        on_completion=body.on_completion,
    )
    command = body.command
    if command is not None:
        refuse(**{"command.update": command.update, "command.goto": command.goto})
    if not resumes(body):
        check_input(body.input)
    elif body.input not in (None, {}, [], ""):  # some clients send an empty input with an answer
        raise InvalidRequestError(
            "give input or command.resume, not both", code="invalid_request", field="input"
        )


async def _check_head(rest: Rest, key: str, body: RunBody) -> None:
    """Raise `InvalidRequestError` if the run names a checkpoint that is not the thread's latest."""
    asked = body.checkpoint_id or (body.checkpoint.checkpoint_id if body.checkpoint else None)
    if not asked:
        return
    head = (await rest.states.state(key))["checkpoint_id"]
    if asked != head:
        raise InvalidRequestError(
            "a run can only go on from the thread's latest checkpoint: leave the checkpoint out",
            code="unsupported",
            field="checkpoint_id" if body.checkpoint_id else "checkpoint",
        )


async def _answers(rest: Rest, key: str, body: RunBody) -> dict[str, object]:
    """Return answers by interrupt id; a plain answer is for the only open question."""
    resume = body.command.resume if body.command is not None else None
    if isinstance(resume, dict) and resume and all(map(_INTERRUPT_ID.fullmatch, resume)):
        return resume
    row = await rest.ledger.thread(key)
    open_ids = row.interrupts if row is not None else ()
    if len(open_ids) == 1:
        return {open_ids[0]: resume}
    if not open_ids:
        raise ConflictError("the thread has no open question", code="no_interrupt")
    raise ConflictError(
        f"{len(open_ids)} questions are open: answer by id ({', '.join(open_ids)})",
        code="several_interrupts",
    )
