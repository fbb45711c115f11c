"""Routes of the LangGraph SDKs that this edge does not serve: 501 with a problem body.

A bare 404 would look like a thread or an assistant that does not exist. A test holds `ROUTES`
against the requests that the Python SDK makes.
"""

from __future__ import annotations

from fastapi import APIRouter

from turnstream.schemas.errors import NotServedError
from turnstream.streams.edge.routes.deps import Caller  # noqa: TC001  FastAPI reads it

ROUTES = (
    ("POST", "/assistants", "assistants.create"),
    ("PATCH", "/assistants/{assistant_id}", "assistants.update"),
    ("DELETE", "/assistants/{assistant_id}", "assistants.delete"),
    ("POST", "/assistants/{assistant_id}/versions", "assistants.get_versions"),
    ("POST", "/assistants/{assistant_id}/latest", "assistants.set_latest"),
    ("GET", "/assistants/{assistant_id}/subgraphs/{namespace}", "assistants.get_subgraphs"),
    ("POST", "/threads/prune", "threads.prune"),
    ("POST", "/threads/{thread_id}/copy", "threads.copy"),
    ("POST", "/threads/{thread_id}/state", "threads.update_state"),
    ("PATCH", "/threads/{thread_id}/state", "threads.patch_state"),
    ("GET", "/threads/{thread_id}/stream", "threads.join_stream"),
    ("DELETE", "/threads/{thread_id}/runs/{run_id}", "runs.delete"),
    ("POST", "/threads/{thread_id}/runs/crons", "crons.create_for_thread"),
    ("POST", "/runs/crons", "crons.create"),
    ("POST", "/runs/crons/search", "crons.search"),
    ("POST", "/runs/crons/count", "crons.count"),
    ("PATCH", "/runs/crons/{cron_id}", "crons.update"),
    ("DELETE", "/runs/crons/{cron_id}", "crons.delete"),
    ("PUT", "/store/items", "store.put_item"),
    ("GET", "/store/items", "store.get_item"),
    ("DELETE", "/store/items", "store.delete_item"),
    ("POST", "/store/items/search", "store.search_items"),
    ("POST", "/store/namespaces", "store.list_namespaces"),
)
"""Method, path, and the call of the SDK."""

router = APIRouter(include_in_schema=False)


def _serve(method: str, path: str, call: str) -> None:
    async def not_served(rest: Caller) -> None:
        del rest  # a caller without permission learns nothing else
        raise NotServedError(f"{call} ({method} {path}) is not served by this edge")

    router.add_api_route(path, not_served, methods=[method])


for _method, _path, _call in ROUTES:
    _serve(_method, _path, _call)
