"""The local stack: real Kafka, Postgres and a model from packages alone."""

from __future__ import annotations

from turnstream.deploy.local.plan import Plan
from turnstream.deploy.local.stack import LocalStack
from turnstream.deploy.local.state import StackState, find_stack, read_state

__all__ = ["LocalStack", "Plan", "StackState", "find_stack", "read_state"]
