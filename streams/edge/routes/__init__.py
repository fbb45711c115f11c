"""The REST surface of the edge: what the stock `langgraph-sdk` calls, and the plain endpoints.

All are projections of the same fold; commands go through `Submit` only. What the SDKs request
(Python 0.4.0 to 0.4.14, JavaScript 1.15.0 and 2.0.0, read in their sources), and what each takes
from the answer:

| SDK call | request | what it needs |
| --- | --- | --- |
| assistants.search | POST /assistants/search | list |
| assistants.get | GET /assistants/{id or graph} | Assistant |
| assistants.get_graph | GET /assistants/{a}/graph?xray | {nodes, edges} |
| assistants.get_schemas | GET /assistants/{a}/schemas | GraphSchemas |
| assistants.get_subgraphs | GET /assistants/{a}/subgraphs?recurse | by namespace |
| assistants.count | POST /assistants/count | a number |
| threads.create | POST /threads {thread_id, metadata, if_exists} | Thread; 409 if there |
| threads.get | GET /threads/{t} | Thread |
| threads.update | PATCH /threads/{t} {metadata} | Thread; 204 if Prefer: return=minimal |
| threads.delete | DELETE /threads/{t} | 204 |
| threads.search, count | POST /threads/search, /threads/count | list, number |
| threads.get_state | GET /threads/{t}/state?subgraphs, /state/{checkpoint} | ThreadState |
| threads.get_state(checkpoint) | POST /threads/{t}/state/checkpoint | ThreadState |
| threads.get_history | POST /threads/{t}/history {limit, before, …} | list of ThreadState |
| threads.stream | POST …/commands, POST or WS …/stream/events | `thread_stream.py` |
| runs.create | POST /threads/{t}/runs, /runs | Run (1), Content-Location (2) |
| runs.stream | POST /threads/{t}/runs/stream, /runs/stream | SSE with `id`, Location (3), (2) |
| runs.wait | POST /threads/{t}/runs/wait, /runs/wait | values (4), Location …/join, (2) |
| runs.join | GET /threads/{t}/runs/{r}/join | values (4) |
| runs.join_stream | GET /threads/{t}/runs/{r}/stream, /runs/{r}/stream (5) | SSE, Location (3) |
| runs.cancel | POST /threads/{t}/runs/{r}/cancel?wait&action | 204 |
| runs.cancel_many | POST /runs/cancel?action {thread_id, run_ids or status} | 204 |
| runs.get | GET /threads/{t}/runs/{r} | Run; after a stream without `end`: `status` |
| runs.list | GET /threads/{t}/runs?limit&offset&status&select | list of Run |

1. With status 200: JavaScript drops the body of a 202. 2. `/threads/{t}/runs/{r}`.
3. A client that was cut comes there by GET with `Last-Event-ID` and no query but the address's own.
4. Or `{"__error__": {"error", "message"}}`; white space may come before.
5. `Last-Event-ID: -1` is the beginning; JavaScript 2.0.0 sends a list of modes as one JSON text.

What else the SDKs request answers 501; `unserved.py` lists it.
"""

from turnstream.streams.edge.routes import (
    assistants,
    chat,
    dead_letters,
    history,
    info,
    runs,
    socket,
    stateless,
    threads,
    unserved,
)

ROUTERS = (
    info.router,
    assistants.router,
    threads.router,
    history.router,
    runs.router,
    stateless.router,
    chat.router,
    dead_letters.router,
    socket.router,
    unserved.router,
)
