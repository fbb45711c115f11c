"""Clients of turnstream in Python: `TurnClient` for backends, and one for the terminal."""

from turnstream.streams.client.backend import PENDING_MAX, Published, TurnClient

__all__ = ["PENDING_MAX", "Published", "TurnClient"]
