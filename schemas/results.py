"""The documented import of results; they live in `records/results.py`."""

from turnstream.schemas.records.results import DeadLetter, Outcome, TurnResult, UsageTotal

__all__ = ["DeadLetter", "Outcome", "TurnResult", "UsageTotal"]
