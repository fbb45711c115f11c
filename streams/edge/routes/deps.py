"""What the REST routes share: the caller, the edge's parts, and answers in documented forms."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Annotated, TypeVar, cast

from fastapi import Depends
from pydantic import BaseModel, Field
from starlette.requests import HTTPConnection  # noqa: TC002  FastAPI reads the annotation
from starlette.responses import Response

from turnstream.schemas.errors import NotFoundError
from turnstream.schemas.ids import parse_turn_id, split_thread_key
from turnstream.streams.edge.server.auth import Principal  # noqa: TC001  FastAPI reads the annotation
from turnstream.streams.edge.server.context import EdgeContext, edge_of, principal_of
from turnstream.streams.edge.surfaces.encoding import encode
from turnstream.streams.edge.surfaces.joining import Joining

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from turnstream.connectors.postgres.ledger.ledger import Ledger, TurnRow
    from turnstream.connectors.postgres.stores.threads import ThreadInfo, Threads
    from turnstream.streams.edge.surfaces.states import States

Found = TypeVar("Found")

LEDGER_POLL_S = 0.02
"""Seconds before the second look-up of a turn that was just sent; each later wait doubles."""


@dataclass(frozen=True, slots=True)
class Rest:
    """The edge as one caller's REST request sees it."""

    edge: EdgeContext
    caller: Principal

    @property
    def ledger(self) -> Ledger:
        """The ledger, to read."""
        return self.edge.ledger

    @property
    def threads(self) -> Threads:
        """The metadata of threads."""
        return self.edge.threads

    @property
    def states(self) -> States:
        """Threads' states."""
        return cast("States", self.edge.state)

    @property
    def joining(self) -> Joining:
        """Runs, to follow."""
        return Joining(feed=self.edge.feed, ledger=self.ledger, states=self.states)

    async def key(self, thread_id: str) -> str:
        """Return the key of the caller's thread; raises `NotFoundError`, `InvalidRequestError`."""
        return await self.edge.authorised(self.caller, thread_id)

    async def info(self, key: str) -> ThreadInfo:
        """Return a thread; raises `NotFoundError`.

        Waits if this edge has just sent the thread's first turn, which the ledger may lack.
        """
        found = await self._soon(key, lambda: self.threads.get(key))
        if found is None:
            raise NotFoundError("there is no such thread", code="thread_not_found")
        return found

    async def run(self, key: str, run_id: str) -> TurnRow:
        """Return a run of the thread; raises `NotFoundError` (`run_not_found`).

        To the SDKs a run that was rolled back does not exist. Waits if this edge has just sent the
        run and the ledger does not know it yet.
        """
        row = await self.find_run(run_id, key)
        if row is None or row.thread_key != key or row.rolled_back:
            raise NotFoundError("the thread has no such run", code="run_not_found")
        return row

    async def find_run(self, run_id: str, key: str = "") -> TurnRow | None:
        """Return a run of the caller's tenant."""
        turn_id = parse_turn_id(run_id)
        return await self._soon(key, lambda: self.ledger.turn(self.caller.tenant, turn_id))

    async def _soon(self, key: str, read: Callable[[], Awaitable[Found | None]]) -> Found | None:
        loop = asyncio.get_running_loop()
        deadline, wait_s = loop.time() + self.edge.submit.start_wait_s, LEDGER_POLL_S
        while (found := await read()) is None:
            left_s = deadline - loop.time()
            if not self.edge.submit.is_recent(key) or left_s < 0:
                return None
            await asyncio.sleep(min(wait_s, left_s))
            wait_s *= 2  # behind a backlog it takes long, and the ledger is busy
        return found


# `async` because FastAPI runs other functions in a thread pool
async def _rest(
    connection: HTTPConnection, caller: Annotated[Principal, Depends(principal_of)]
) -> Rest:
    return Rest(edge_of(connection), caller)


Caller = Annotated[Rest, Depends(_rest)]


class JsonAnswer(Response):
    """An answer encoded by `encoding.encode`, because a graph may put anything into its state."""

    media_type = "application/json"

    def __init__(
        self, value: object, *, status_code: int = 200, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(encode(value), status_code=status_code, headers=headers)


class ProblemBody(BaseModel):
    """A problem (RFC 9457). `code` is stable; `field` names the part of the request."""

    type: str = "about:blank"
    title: str
    status: int
    code: str
    detail: str = ""
    field: str = ""
    error_id: str = ""
    retryable: bool = Field(default=False, description="the same request may work later")


_PROBLEM = {"application/problem+json": {"schema": ProblemBody.model_json_schema()}}
_WHEN = {
    400: "the body is not JSON",
    401: "no valid token",
    403: "the token does not allow this",
    404: "no such thread, run, assistant or checkpoint in the caller's tenant",
    409: "the thread is in a state that does not allow this",
    413: "the body, or a text in it, is too large",
    415: "the body is not declared as JSON",
    422: "a field is wrong; `field` names it",
    429: "a limit is reached",
    500: "an unexpected error; find it in the edge's log by `error_id`",
    503: "Kafka or Postgres does not answer; try again",
}
PROBLEMS: dict[int | str, dict[str, object]] = {
    status: {"description": f"{HTTPStatus(status).phrase}: {when}", "content": _PROBLEM}
    for status, when in _WHEN.items()
}


def answers(
    model: object, description: str, status: int = 200
) -> dict[int | str, dict[str, object]]:
    """Return the documented answers of a route: the good one and the problems."""
    return {status: {"model": model, "description": description}, **PROBLEMS}


def streams(description: str) -> dict[int | str, dict[str, object]]:
    """Return the documented answers of a route that streams server-sent events."""
    content: dict[str, object] = {"text/event-stream": {"schema": {}}}
    return {200: {"description": description, "content": content}, **PROBLEMS}


def thread_id_of(key: str) -> str:
    """Return the thread's id in its tenant."""
    return split_thread_key(key)[1]
