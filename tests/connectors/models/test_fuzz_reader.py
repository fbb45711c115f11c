"""Spoiled answers never crash the reader, and an answer that lacks a part is never whole."""

from __future__ import annotations

import pytest
from fuzz_reader import Case, check, fuzz, truth

CASES = 2000
"""Some seconds; for more, run `fuzz_reader.py`."""


def test_no_spoiled_answer_crashes_the_reader_or_passes_for_whole():
    counts = fuzz(seed=1, cases=CASES)
    assert min(counts.values()) > CASES / 20  # it sees each kind of outcome


SAID = {"choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": None}]}
END = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}


@pytest.mark.parametrize(
    ("events", "could_be"),
    [
        ([SAID, END], True),
        ([SAID, "data: [DONE]\n\n", END], False),
        ([SAID, END, {"error": {"message": "m"}}], False),
        ([SAID, END, "data: [DONE]\n\n", {"error": {"message": "m"}}], True),
        ([SAID], False),
    ],
)
def test_what_the_fuzzer_takes_for_the_truth(events, could_be):
    assert truth(events)[0] is could_be
    assert check(Case(events)) == "whole" or not could_be
