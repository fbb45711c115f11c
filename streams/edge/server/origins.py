"""Where a request comes from: the host under which it reached the edge, and a browser's origin.

A browser sends a request to this edge for any page that asks it to. With authentication that is
harmless, because the page has no token. Without authentication (dev mode) the edge serves loopback
hosts only, so that no foreign name leads to it (DNS rebinding), and it refuses foreign origins on
every route.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from turnstream.schemas.errors import ForbiddenError

if TYPE_CHECKING:
    from collections.abc import Mapping

_DEFAULT_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}


def check_host(headers: Mapping[str, str], others: frozenset[str] = frozenset()) -> None:
    """Raise `ForbiddenError` (`host`) for a host that is neither loopback nor one of `others`.

    A browser always sends the name under which it reached the edge.
    """
    host = headers.get("host")
    if host is None:
        return
    try:
        name = (urlsplit(f"//{host}").hostname or "").rstrip(".")
    except ValueError:
        name = ""
    if is_loopback(name) or name.endswith(".localhost") or name in others:
        return
    raise ForbiddenError(
        f"host {host[:100]!r} is not served without authentication: use localhost, or set"
        " TURNSTREAM_EDGE_URL to an address of this host",
        code="host",
    )


def check_origin(headers: Mapping[str, str], allowed: tuple[str, ...]) -> None:
    """Raise `ForbiddenError` (`origin`) for an origin that is neither allowed nor the edge's own.

    Only browsers send `Origin`; a token is the only check of other clients.
    """
    origin = headers.get("origin")
    if origin is None or origin in allowed or "*" in allowed:
        return
    if not _same_host(origin, headers.get("host", "")):
        raise ForbiddenError(
            f"origin {origin[:100]!r} is not allowed: add it to TURNSTREAM_ALLOWED_ORIGINS",
            code="origin",
        )


def check_same_site(headers: Mapping[str, str], allowed: tuple[str, ...]) -> None:
    """Raise `ForbiddenError` (`origin`) for a GET with effects that a foreign page sends.

    For an image or a link a browser sends no `Origin`, but `Sec-Fetch-Site`.
    """
    check_origin(headers, allowed)
    site = headers.get("sec-fetch-site", "none")
    if headers.get("origin") is None and site not in {"none", "same-origin"}:
        raise ForbiddenError(
            f"a page of another origin ({site[:20]!r}) may not send this", code="origin"
        )


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches a host; names except localhost may lead out."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _same_host(origin: str, host: str) -> bool:
    try:
        parts = urlsplit(origin)
        port = parts.port or _DEFAULT_PORTS.get(parts.scheme)
        ours = urlsplit(f"//{host}")
        return parts.hostname == ours.hostname and port == (
            ours.port or _DEFAULT_PORTS.get(parts.scheme)
        )
    except ValueError:
        return False
