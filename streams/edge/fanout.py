"""Sockets: placeholder of types that the next module fills."""

from __future__ import annotations


class Sockets:
    """All open sockets of this edge."""
