"""`WS /ws`: the plain endpoints over one WebSocket, any number of threads.

The client sends JSON objects; `id` (optional) comes back in the answer:

- `{"type": "chat", "text", "thread_id"?, "graph"?, "idempotency_key"?, "on_busy"?, "expires_at"?}`:
  start a turn with a text and subscribe to the thread; answered by
  `{"type": "accepted", "thread_id", "run_id", "status"}`
- `{"type": "resume", "thread_id", "answers": {question id: answer}, "expires_at"?}`: likewise
- `{"type": "cancel", "thread_id", "run_id", "rollback"?}`: answered by `{"type": "ok"}`
- `{"type": "subscribe", "thread_id", "since"?}`, `{"type": "unsubscribe", "thread_id"}`: `ok`
- `{"type": "ping"}`: `{"type": "pong"}`

The server sends the plain events of `plain.py` as
`{"type": <event>, "thread_id", "cursor", ...}`, and for a frame that fails
`{"type": "error", "id", "code", "detail", "field", "retryable"}`. A socket is closed with
4000 + HTTP status (4401, 4403, 4429 …; 4400 after 16 frames that cannot be read), and with 1012
when the edge stops.
"""

from fastapi import APIRouter, WebSocket

from turnstream.streams.edge.deliver.client_socket import serve_socket
from turnstream.streams.edge.routes.deps import Rest
from turnstream.streams.edge.routes.plain_dialect import PlainDialect

router = APIRouter()


@router.websocket("/ws")
async def socket(websocket: WebSocket) -> None:
    """Serve one client until it leaves; see the module."""
    await serve_socket(websocket, lambda edge, caller: PlainDialect(Rest(edge, caller)))
