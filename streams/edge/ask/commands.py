"""Commands of the Agent Streaming Protocol on one thread, whether by HTTP or by WebSocket.

`run.start`, `input.respond` and `run.cancel` become records of `turns`, through `Submit` only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, cast, get_args

import msgspec

from turnstream.schemas.errors import CommandError
from turnstream.schemas.ids import check_thread_id, thread_key
from turnstream.schemas.limits import INT_MAX, INT_MIN, check_depth
from turnstream.schemas.records.commands import OnBusy
from turnstream.streams.edge.ask.run_request import (
    check_input,
    own_config,
    refuse,
    refuse_unsupported,
)
from turnstream.streams.edge.ask.submit import Asked, check_expires_at
from turnstream.streams.edge.follow.cursor import Cursor

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from turnstream.schemas.errors import TurnstreamError
    from turnstream.streams.edge.ask.own_turns import Start
    from turnstream.streams.edge.ask.submit import Submitted
    from turnstream.streams.edge.server.auth import Principal
    from turnstream.streams.edge.server.context import EdgeContext

encode = msgspec.json.Encoder().encode
_UNSUPPORTED = {
    "interrupt_before": "interruptBefore",
    "interrupt_after": "interruptAfter",
    "webhook": "webhook",
    "after_seconds": "afterSeconds",
    "on_completion": "onCompletion",
}


class Command(msgspec.Struct, frozen=True):
    """A command of the protocol."""

    id: Annotated[int, msgspec.Meta(ge=INT_MIN, le=INT_MAX)]
    method: str
    params: dict[str, object] = {}


_commands = msgspec.json.Decoder(Command)


def parse_command(body: bytes) -> Command:
    """Return the command; raises `CommandError` (400), `InvalidRequestError` (422, `too_deep`)."""
    check_depth(body, envelope=True)
    try:
        return _commands.decode(body)
    except (ValueError, msgspec.DecodeError) as error:
        raise CommandError(f"not a command: {error}") from error


def success(command_id: int, result: Mapping[str, object], **meta: object) -> dict[str, object]:
    """Return the protocol's answer to a command that was taken."""
    answer: dict[str, object] = {"type": "success", "id": command_id, "result": result}
    return answer | ({"meta": meta} if meta else {})


# the protocol's own codes; what is ours goes by `unknown_error`
_PROTOCOL_CODES = frozenset(
    {
        "invalid_argument",
        "unknown_command",
        "no_such_run",
        "no_such_subscription",
        "no_such_interrupt",
        "permission_denied",
        "not_supported",
    }
)


def error_message(command_id: int | None, error: TurnstreamError) -> dict[str, object]:
    """Return an error of ours as the protocol's."""
    code = error.code if error.code in _PROTOCOL_CODES else "unknown_error"
    if error.code == "unsupported":
        code = "not_supported"
    if error.status in {400, 422} and code == "unknown_error":
        code = "invalid_argument"
    return {"type": "error", "id": command_id, "error": code, "message": f"{error.code}: {error}"}


@dataclass(frozen=True, slots=True)
class Commands:
    """Runs one caller's commands on one thread."""

    edge: EdgeContext
    principal: Principal
    thread_id: str

    async def run(self, command: Command) -> dict[str, object]:
        """Return the answer. Raises what a surface turns into its own error."""
        handlers: dict[str, Callable[[Command], Awaitable[dict[str, object]]]] = {
            "run.start": self._start,
            "input.respond": self._respond,
            "run.cancel": self._cancel,
        }
        handler = handlers.get(command.method)
        if handler is None:
            error = CommandError(f"unknown method {command.method[:80]}", code="unknown_command")
            return error_message(command.id, error)
        return await handler(command)

    @property
    def _key(self) -> str:
        return thread_key(self.principal.tenant, check_thread_id(self.thread_id))

    async def _start(self, command: Command) -> dict[str, object]:
        await self.edge.pressure.enter()
        params = command.params
        graph = self.edge.catalog.find(_text(params, "assistant_id")).name
        _refuse_unsupported(params)
        given = await self._input(params)
        start_turn = self.edge.submit.start_of(
            self.principal,
            self._asked(params, graph),
            text=given if isinstance(given, str) else "",
            input=None if isinstance(given, str) else given,
            on_busy=_on_busy(params),
        )
        async with self.edge.sockets.asking(self._key, self.principal) as start:
            submitted = await self.edge.submit.send(start_turn)
            return self._submitted(command, submitted, start)

    def _asked(self, params: dict[str, object], graph: str) -> Asked:
        return Asked(
            thread_id=self.thread_id,
            graph=graph,
            config=_config(params),
            metadata=_object(params, "metadata"),
            expires_at=_expires_at(params),
        )

    async def _input(self, params: dict[str, object]) -> object:
        """Return the input; where it is left out an empty one, unless a question is open."""
        given = params.get("input", {})
        if "input" not in params:
            row = await self.edge.ledger.thread(self._key)
            given = None if row is not None and row.interrupts else given
        check_input(given)
        return given

    async def _respond(self, command: Command) -> dict[str, object]:
        await self.edge.pressure.enter()
        params = command.params
        key = await self.edge.authorised(self.principal, self.thread_id)
        if "responses" in params:
            entries = params["responses"]
            if not isinstance(entries, list) or not all(isinstance(e, dict) for e in entries):
                raise CommandError("responses must be a list of objects")
        else:
            entries = [params]
        answers = {_text(entry, "interrupt_id"): entry.get("response") for entry in entries}
        for unsupported in ("update", "goto"):
            if params.get(unsupported) is not None:
                raise CommandError(f"{unsupported} is not supported", code="not_supported")
        asked = self._asked(params, await self.edge.graph_asking(key))
        resume = self.edge.submit.resume_of(self.principal, asked, answers)
        async with self.edge.sockets.asking(key, self.principal) as start:
            submitted = await self.edge.submit.send(resume)
            return self._submitted(command, submitted, start)

    async def _cancel(self, command: Command) -> dict[str, object]:
        await self.edge.authorised(self.principal, self.thread_id)
        run_id = _text(command.params, "run_id")
        await self.edge.submit.cancel(self.principal, self.thread_id, run_id)
        return success(command.id, {"run_id": run_id})

    def _submitted(self, command: Command, submitted: Submitted, start: Start) -> dict[str, object]:
        result = {"run_id": submitted.turn_id}
        if submitted.applied_through is None:
            return success(command.id, result)
        cursor = Cursor.of_seq(submitted.applied_through)
        self.edge.sockets.starts.began(start, cursor)
        return success(command.id, result, applied_through_seq=submitted.applied_through)


def _text(params: dict[str, object], name: str) -> str:
    value = params.get(name)
    if not isinstance(value, str) or not value:
        raise CommandError(f"{name} must be a string")
    return value


def _on_busy(params: dict[str, object]) -> OnBusy:
    """Return the policy: the protocol has none, the JavaScript SDK sends one under two names."""
    asked = params.get("multitask_strategy") or params.get("multitaskStrategy") or "enqueue"
    if asked not in get_args(OnBusy):
        raise CommandError(f"multitask_strategy is one of {', '.join(get_args(OnBusy))}")
    return cast("OnBusy", asked)


def _expires_at(params: dict[str, object]) -> int:
    """Return when the turn is to be over by, 0 for never: ours, the protocol has no such field."""
    value = params.get("expires_at")
    if value is None:
        return 0
    if not isinstance(value, int) or isinstance(value, bool):
        raise CommandError("expires_at must be an integer, microseconds since 1970")
    try:
        return check_expires_at(value)
    except ValueError as error:
        raise CommandError(str(error)) from error


def _refuse_unsupported(params: dict[str, object]) -> None:
    """Refuse what no run does yet; clients in JavaScript may write the names in camel case."""
    refuse(
        **{name: params.get(name) for name in ("checkpoint_id", "checkpointId", "forkFrom")},
        checkpoint=params.get("checkpoint"),
        command=params.get("command"),
    )
    for snake, camel in _UNSUPPORTED.items():
        refuse_unsupported(**{snake: params.get(snake)})
        if camel in params:
            refuse_unsupported(**{snake: params[camel]})


def _config(params: dict[str, object]) -> dict[str, object] | None:
    return own_config(_object(params, "config"), _object(params, "context"))


def _object(params: dict[str, object], name: str) -> dict[str, object] | None:
    value = params.get(name)
    if value is not None and not isinstance(value, dict):
        raise CommandError(f"{name} must be an object")
    return value
