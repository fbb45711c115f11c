"""The routes of the edge's app, so that a test walks a new one without naming it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from starlette.routing import Route, WebSocketRoute

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


def routes_of(app: Any) -> list[tuple[str, str]]:
    """Return each route as method (or `WS`) and path."""
    found = list(_walked(app.routes))
    assert len(found) > 60, "FastAPI keeps its routes in another way"
    return found


def _walked(routes: Iterable[Any]) -> Iterator[tuple[str, str]]:
    for route in routes:
        if (included := getattr(route, "original_router", None)) is not None:
            yield from _walked(included.routes)
        elif isinstance(route, WebSocketRoute):
            yield "WS", route.path
        elif isinstance(route, Route):
            for method in sorted((route.methods or set()) - {"HEAD"}):
                yield method, route.path
