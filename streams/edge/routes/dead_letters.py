"""Dead letters: list, show, requeue, drop.

A caller sees the letters of its own tenant's topics. A caller with the role `operator` sees all,
also those from the edges' own topic, where only the refused body names a tenant. Other bytes than
the record's own may name another actor, so an edit needs that role, or `tenant-operator` in the
tenant.
"""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from turnstream.schemas.errors import (
    ForbiddenError,
    InvalidRequestError,
    NotFoundError,
    UnavailableError,
)
from turnstream.streams.edge.routes.bodies import Text
from turnstream.streams.edge.routes.deps import Caller, JsonAnswer, Rest, answers
from turnstream.streams.edge.routes.reading import JsonRoute
from turnstream.streams.edge.routes.shapes import Shape
from turnstream.streams.letters.dead_letters import PAGE_MAX, DeadLetters
from turnstream.streams.letters.reading import letter_json, shown_json
from turnstream.streams.letters.scan import Letter, Wanted, parse_place

router = APIRouter(prefix="/dead-letters", tags=["dead letters"], route_class=JsonRoute)

OPERATOR = "operator"
EDITORS = frozenset({OPERATOR, "tenant-operator"})
OFFSET_MAX = (1 << 63) - 1


class LetterQuery(BaseModel):
    """Which letters to list, from which place on, and how long to search."""

    model_config = ConfigDict(extra="forbid")

    state: Literal["open", "requeue_due", "requeued", "dropped", "all"] = "open"
    tenant: str = Field(default="", max_length=100, description="an operator's choice")
    code: str = Field(default="", max_length=100, description="refused with this code")
    topic: str = Field(default="", max_length=300, description="from this input topic")
    partition: int | None = Field(
        default=None, ge=0, le=OFFSET_MAX, description="of the dead letters"
    )
    first: int = Field(default=0, alias="from", ge=0, le=OFFSET_MAX, description="first offset")
    end: int | None = Field(
        default=None, alias="to", ge=0, le=OFFSET_MAX, description="after the last"
    )
    after: str = Field(default="", max_length=50, description="where the page before ended")
    limit: int = Field(default=50, ge=1, le=PAGE_MAX)
    timeout_s: float = Field(default=10.0, ge=0.1, le=20)


class LetterShape(Shape):
    """A record that could not be read; `at` is when it was set aside."""

    letter: str = Field(description="partition-offset in the dead-letters topic")
    state: Literal["open", "requeue_due", "requeued", "dropped"]
    code: str
    message: str
    tenant: str
    topic: str
    partition: int
    offset: int
    at: str
    size: int
    letter_id: str
    requeues: int
    decision: dict[str, Any] | None


class ShownShape(LetterShape):
    """A letter: its bytes as text or in base64, their format, and the decisions about it."""

    key: str = ""
    key_base64: str = ""
    value: str = ""
    value_base64: str = ""
    reading: dict[str, Any]
    history: list[dict[str, Any]]


class PageShape(Shape):
    """Letters in order of their places; `after` is the next page's start, `cut`: time ran out."""

    letters: list[LetterShape]
    after: str | None
    cut: bool
    unreadable: int


class RequeueBody(BaseModel):
    """A key and a value to send instead of the record's own, if given."""

    key: str | None = Field(default=None, max_length=1000)
    value: str | None = None
    value_base64: str | None = None
    note: Text = Field(default="", max_length=500)
    force: bool = Field(
        default=False,
        description="also what would be refused again, unless no worker ever takes it",
    )


class DropBody(BaseModel):
    """Why nothing is done about a letter."""

    note: Text = Field(default="", max_length=500)


@router.get("", responses=answers(PageShape, "the letters"), summary="List")
async def list_letters(rest: Caller, asked: Annotated[LetterQuery, Query()]) -> JsonAnswer:
    """Return letters of the caller's tenant, or of all tenants to an operator."""
    operator = OPERATOR in rest.caller.roles
    wanted = Wanted(
        tenant=(asked.tenant or None) if operator else rest.caller.tenant,
        code=asked.code,
        topic=asked.topic,
        state="" if asked.state == "all" else asked.state,
        partition=asked.partition,
        first=asked.first,
        end=asked.end,
    )
    page = await _letters(rest).page(
        wanted,
        caller=rest.caller.tenant,
        start=parse_place(asked.after) if asked.after else None,
        limit=asked.limit,
        budget_s=asked.timeout_s,
    )
    return JsonAnswer(
        {
            "letters": [letter_json(letter) for letter in page.letters],
            "after": None if page.following is None else str(page.following),
            "cut": page.cut,
            "unreadable": page.unreadable,
        }
    )


@router.get("/{letter}", responses=answers(ShownShape, "the letter"), summary="Show")
async def show(rest: Caller, letter: Text) -> JsonAnswer:
    """Return a letter: its bytes, their format, whether they could be read now, its history."""
    service, found = _letters(rest), await _find(rest, letter)
    return JsonAnswer(shown_json(found, service.read(found.record), await service.history(found)))


@router.post(
    "/{letter}/requeue",
    status_code=202,
    responses=answers(LetterShape, "decided; a worker sends it", 202),
    summary="Requeue",
)
async def requeue(rest: Caller, letter: Text, body: RequeueBody | None = None) -> JsonAnswer:
    """Send the record to its topic again, with the given bytes if there are any.

    403: the caller may not edit. 409 (`letter_decided`): the letter has been decided. 422
    (`letter_refused`): it would be refused again.
    """
    body = body or RequeueBody()
    found = await _find(rest, letter)
    edited = (body.key, body.value, body.value_base64) != (None, None, None)
    if edited and EDITORS.isdisjoint(rest.caller.roles):
        raise ForbiddenError(f"an edit needs one of the roles {', '.join(sorted(EDITORS))}")
    done = await _letters(rest).requeue(
        found,
        actor=rest.caller.user,
        note=body.note,
        key=None if body.key is None else _encoded("key", body.key),
        value=_value(body),
        force=body.force,
    )
    return JsonAnswer(letter_json(done), status_code=202)


@router.post("/{letter}/drop", responses=answers(LetterShape, "the letter"), summary="Drop")
async def drop(rest: Caller, letter: Text, body: DropBody | None = None) -> JsonAnswer:
    """Decide that nothing is done; 409 (`letter_decided`) if the letter has a decision already."""
    note = body.note if body is not None else ""
    done = await _letters(rest).drop(await _find(rest, letter), actor=rest.caller.user, note=note)
    return JsonAnswer(letter_json(done))


async def _find(rest: Rest, text: str) -> Letter:
    """Return a letter that the caller may see; raises `NotFoundError` for any other."""
    place = parse_place(text)
    letter = await _letters(rest).get(place, caller=rest.caller.tenant)
    if OPERATOR in rest.caller.roles or letter.record.tenant == rest.caller.tenant:
        return letter
    raise NotFoundError(f"unknown letter {place}", code="letter_not_found")


def _letters(rest: Rest) -> DeadLetters:
    if rest.edge.letters is None:
        raise UnavailableError("this edge reads no dead letters")
    return rest.edge.letters


def _value(body: RequeueBody) -> bytes | None:
    if body.value is not None and body.value_base64 is not None:
        raise InvalidRequestError("give value or value_base64, not both", field="value_base64")
    if body.value_base64 is not None:
        try:
            return base64.b64decode(body.value_base64, validate=True)
        except (binascii.Error, ValueError) as error:
            raise InvalidRequestError("not valid base64", field="value_base64") from error
    return None if body.value is None else _encoded("value", body.value)


def _encoded(field: str, text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise InvalidRequestError("UTF-8 cannot hold a lone surrogate", field=field) from error
