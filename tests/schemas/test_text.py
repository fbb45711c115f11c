"""Text that every store, wire and screen takes."""

import pytest

from turnstream.schemas.text import (
    clean_json,
    clean_text,
    storable_text,
    text_sha256,
    visible_text,
)


@pytest.mark.parametrize(
    ("text", "utf8", "stored"),
    [
        ("party", "party", "party"),
        ("Zürich 🎉", "Zürich 🎉", "Zürich 🎉"),
        ("half \ud83d, half \ude00", "half \ufffd, half \ufffd", "half \ufffd, half \ufffd"),
        ("a\x00b", "a\x00b", "a\ufffdb"),
        ("\ud800\x00", "\ufffd\x00", "\ufffd\ufffd"),
        ("", "", ""),
    ],
)
def test_what_a_store_does_not_take_is_marked(text: str, utf8: str, stored: str) -> None:
    assert clean_text(text) == utf8
    assert storable_text(text) == stored
    assert text_sha256(text) == text_sha256(utf8)


def test_keys_and_items_of_json_are_cleaned() -> None:
    value = {"a\x00": ["\ud800", ("x", 1), None, {"k": "\udfff"}]}
    assert clean_json(value) == {"a\ufffd": ["\ufffd", ["x", 1], None, {"k": "\ufffd"}]}


def test_no_text_moves_the_cursor_of_a_terminal() -> None:
    text = "a\x1b[2Jb\tc\nd\re\x9bf\x7f"
    assert visible_text(text) == "a\ufffd[2Jb\ufffdc\ufffdd\ufffde\ufffdf\ufffd"
    assert visible_text(text, lines=True) == "a\ufffd[2Jb\tc\nd\ufffde\ufffdf\ufffd"
