"""A response's close that does not reset a connection whose peer still sends its request."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

    from turnstream.streams.edge.server.http_connection import EdgeHttpProtocol


class Lingering:
    """A connection's transport as a response sees it: a close lets the request's rest come."""

    def __init__(self, protocol: EdgeHttpProtocol, cycle: RequestResponseCycle) -> None:
        self._protocol = protocol
        self._cycle = weakref.ref(cycle)  # it refers to this
        self.write = protocol.transport.write
        self.is_closing = protocol.transport.is_closing

    def close(self) -> None:
        """Close once the peer has sent its request, or stopped to."""
        cycle = self._cycle()
        if cycle is not None and cycle.response_complete and cycle.more_body:
            self._protocol.linger()
        else:
            self._protocol.transport.close()
