"""JSON of requests: its depth is checked before a parser reads it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from fastapi.routing import APIRoute

from turnstream.schemas.errors import InvalidRequestError, UndecodableError
from turnstream.schemas.limits import check_depth

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from starlette.requests import Request
    from starlette.responses import Response


class JsonRoute(APIRoute):
    """A route whose body is empty, or UTF-8 JSON of bounded depth.

    Raises `InvalidRequestError` (422, `too_deep`) and `UndecodableError` (400, `invalid_json`).
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[None, None, Response]]:
        """Return the handler with the check before it."""
        handle = super().get_route_handler()

        async def checked(request: Request) -> Response:
            # Starlette keeps the body that was read
            check_body(await request.body())
            return await handle(request)

        return checked


def check_body(body: bytes) -> None:
    """Check the body of a request before it is parsed."""
    if not body:
        return
    # the parser guesses the encoding, and other encodings hide brackets from the check
    if json.detect_encoding(body) not in {"utf-8", "utf-8-sig"}:
        raise UndecodableError("the body is not UTF-8", code="invalid_json", field="body")
    check_depth(body, "body", envelope=True)


def json_list(text: str) -> list[str] | None:
    """Return the names of a JSON list, or of one JSON string; None if the text is no JSON."""
    try:
        check_depth(text)
        named = json.loads(text)
    except (ValueError, InvalidRequestError):
        return None
    return [str(name) for name in named] if isinstance(named, list) else [str(named)]
