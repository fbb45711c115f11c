"""The documented import of results; they live in `records/results.py`."""

from turnstream.schemas.records.results import Outcome, TurnResult, UsageTotal

__all__ = ["Outcome", "TurnResult", "UsageTotal"]
