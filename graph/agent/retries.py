"""When a model call that failed is made again. Pure, except for the randomness of the waits.

The task runs again as a whole. `TaskRetried` voids its events (F4), so it does not
matter whether the answer failed before its first token or in the middle.
"""

from __future__ import annotations

import random

import msgspec

from turnstream.schemas.errors import ModelError, ModelOverloadedError


class RetrySettings(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of retries.

    `tries_max` counts the first try of a call, `turn_retries_max` the retries of all calls of a
    turn in one attempt at it. Waits double from `backoff_s` up to `backoff_max_s`, with jitter. A
    server's Retry-After is waited for; one above `retry_after_max_s` ends the retries at once.
    """

    tries_max: int = 3
    turn_retries_max: int = 6
    backoff_s: float = 0.5
    backoff_max_s: float = 10.0
    retry_after_max_s: float = 60.0


class Retries:
    """The retries of one attempt at a turn."""

    def __init__(self) -> None:
        self._made = 0

    def wait_s(self, settings: RetrySettings, error: Exception, tries: int) -> float | None:
        """Return the seconds to wait before the next try; None if the call is not made again.

        A request that the server refused for the request's own fault is never repeated.
        """
        if not isinstance(error, ModelError) or not error.retryable:
            return None
        if tries >= settings.tries_max or self._made >= settings.turn_retries_max:
            return None
        asked_s = error.retry_after_s if isinstance(error, ModelOverloadedError) else 0.0
        if asked_s > settings.retry_after_max_s:
            return None
        self._made += 1
        longest_s = min(settings.backoff_s * 2.0 ** (tries - 1), settings.backoff_max_s)
        # not before the server's time, and not all at that moment
        jitter = random.uniform(0.5, 1.0)  # noqa: S311
        return asked_s + longest_s * jitter
