"""Unexpected errors: counted by place, logged with frames, without their text unless allowed."""

from __future__ import annotations

import pytest
import structlog.testing

from turnstream.schemas import unexpected


def _broken() -> None:
    try:
        {}["SECRET"]
    except KeyError as error:
        raise ValueError("postgresql://u:SECRET@h/d") from error


def _caught() -> ValueError:
    with pytest.raises(ValueError, match="postgresql") as caught:
        _broken()
    return caught.value


def test_an_unexpected_error_is_counted_and_logged_with_its_frames() -> None:
    before = unexpected.counts().get("a-test", 0)
    with structlog.testing.capture_logs() as logged:
        error_id = unexpected.note("a-test", _caught(), turn_id="t1")
    assert unexpected.counts()["a-test"] == before + 1
    (line,) = logged
    assert (line["error_id"], line["turn_id"]) == (error_id, "t1")
    assert line["error_class"] == "ValueError"
    assert line["frames"][0] == "caused by KeyError"
    assert line["frames"][-1].endswith(" _broken")
    assert "SECRET" not in str(line)


def test_the_text_of_an_exception_is_logged_where_it_is_allowed() -> None:
    unexpected.allow_text(allowed=True)
    try:
        assert unexpected.described(_caught())["error"] == "postgresql://u:SECRET@h/d"
    finally:
        unexpected.allow_text(allowed=False)
    assert "error" not in unexpected.described(_caught())
