"""The connection that carries a request or a socket, within reach of the code that answers it.

The edge writes prepared frames straight to a connection's transport. Through ASGI's `send` a frame
costs half as much again, and one reader that stalls makes all others wait. A writer must leave the
connection as uvicorn's protocol class would: whole frames after the handshake and before the close,
whole chunks inside a chunked body.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias, cast

if TYPE_CHECKING:
    from starlette.requests import HTTPConnection

    from turnstream.streams.edge.server.http_connection import EdgeHttpProtocol
    from turnstream.streams.edge.server.websocket_connection import EdgeWebSocketProtocol

    Connection: TypeAlias = EdgeWebSocketProtocol | EdgeHttpProtocol

STATE_KEY = "turnstream.connection"
"""The key under which a connection is in the state of its ASGI scope."""
INTERNAL_CLOSE_CODE = 1011


def connection_of(connection: HTTPConnection) -> Connection:
    """Return the protocol object that carries a request or a socket."""
    return cast("Connection", connection.scope["state"][STATE_KEY])


def cut(connection: HTTPConnection) -> None:
    """Close the connection without the body's end; the client then comes back and resumes."""
    connection_of(connection).transport.close()
