"""What a `finish_reason` means: whether the answer that it ends is whole; pure."""

from __future__ import annotations

import re
from enum import Enum

REASON_CHARS_MAX = 64


class Ending(Enum):
    """What the server says of its answer's end."""

    NONE = "the answer goes on"
    WHOLE = "the answer is as long as it was to be, or as the request allows"
    REFUSED = "the model, or a filter beside it, does not answer this"
    BROKEN = "the server failed"
    CUT = "the server stopped before the end"


_NOT_YET = frozenset({"", "null", "none", "not_finished", "in_progress"})
# Bedrock, Zhipu, Gemini, Azure, vLLM's and SGLang's abort, DeepSeek
_REFUSED = re.compile(
    r"filter|refus|safety|sensitive|guardrail|moderat|recitation|blocklist|prohibited|blocked|spii"
)
_BROKEN = re.compile(r"error|fail|malformed|insufficient|unavailable|overload|unexpected")
_LIMIT = re.compile(r"length|max_")
_CUT = re.compile(r"abort|cancel|interrupt|timeout|timed_out|disconnect|preempt|incomplete|killed")


def ending_of(reason: str) -> Ending:
    """Return what a reason means; one that is unknown ends a whole answer, as `stop` does."""
    word = reason.strip().lower()
    if word in ("stop", "tool_calls", "length"):
        return Ending.WHOLE
    if word in _NOT_YET:
        return Ending.NONE
    if _REFUSED.search(word):
        return Ending.REFUSED
    if _BROKEN.search(word):
        return Ending.BROKEN
    return Ending.CUT if _CUT.search(word) else Ending.WHOLE


def is_at_limit(reason: str) -> bool:
    """Return whether a reason says that the answer is as long as it may be."""
    return _LIMIT.search(reason.lower()) is not None
