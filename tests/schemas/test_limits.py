"""JSON of others: how deep, which numbers, which texts; nothing recurses and nothing is slow."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from turnstream.schemas.errors import InvalidRequestError, UndecodableError
from turnstream.schemas.limits import (
    DEPTH_MAX,
    ENVELOPE_LEVELS,
    check_depth,
    check_value,
    depth_of,
    read_json,
)

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


def deep(levels: int) -> str:
    return "[" * levels + "]" * levels


def levels_of(value: Any) -> int:
    items = (
        value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    )
    return 0 if items is None else 1 + max(map(levels_of, items), default=0)


@given(JSON, st.booleans())
def test_depth_is_that_of_the_value_whatever_its_strings_hold(value: Any, ascii_only: bool) -> None:
    # brackets before it, so that the quick way is not taken
    text = json.dumps([["]", "[{"] * 40, value], ensure_ascii=ascii_only)
    assert depth_of(text) == depth_of(text.encode("utf-8", "surrogatepass"))
    assert depth_of("[" + ",".join(["[]"] * DEPTH_MAX) + f",{text}]") == 2 + max(
        1, levels_of(value)
    )


@pytest.mark.parametrize(
    "text", ['"', "\\", '"\\', "[" * 70 + '"', '"\\"' * 70 + "[" * 70, "]" * 70]
)
def test_what_is_no_json_has_a_depth_too(text: str) -> None:
    assert depth_of(text) <= len(text)


def test_a_value_of_the_last_level_that_is_allowed_is_read() -> None:
    assert read_json(deep(DEPTH_MAX)) is not None
    assert read_json(deep(DEPTH_MAX + ENVELOPE_LEVELS), envelope=True) is not None
    check_value(json.loads(deep(DEPTH_MAX)))


@pytest.mark.parametrize("levels", [DEPTH_MAX + 1, 600, 1_000_000])
@pytest.mark.parametrize("pair", ["[]", "{}"])
def test_one_level_more_is_refused_before_any_parser_sees_it(levels: int, pair: str) -> None:
    text = (pair[0] + '"a":' * (pair == "{}")) * levels
    for given_ in (text, text.encode(), '{"\\u0041": ' + text):
        with pytest.raises(InvalidRequestError) as refused:
            read_json(given_, "input")
        assert (refused.value.code, refused.value.field) == ("too_deep", "input")
    with pytest.raises(InvalidRequestError):
        check_depth(deep(DEPTH_MAX + ENVELOPE_LEVELS + 1), envelope=True)


def test_a_value_is_walked_without_recursion() -> None:
    value: Any = 1
    for _ in range(100_000):
        value = [value]
    with pytest.raises(ValueError, match="64 levels"):
        check_value(value)


@pytest.mark.parametrize("number", ["18446744073709551615", "-9223372036854775809", "1" * 400])
@pytest.mark.parametrize("text", ["[{}]", '{{"a": [0, {}]}}', '["\\ud83d", {}]'])
def test_an_integer_beyond_64_bits_is_refused(number: str, text: str) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        read_json(text.format(number))
    assert refused.value.code == "number_out_of_range"


@pytest.mark.parametrize(
    "number", ["9223372036854775807", "-9223372036854775808", "1e300", "0.1234567890123456789012"]
)
def test_a_number_of_64_bits_is_read(number: str) -> None:
    assert read_json(f"[{number}]") == [json.loads(number)]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "NaN",
        '["\\ud83d", NaN]',
        '["\\ud83d", 1e999]',
        "1" * 5000,
        "Infinity",
        b"\xff",
        b"[\xed\xa0\x80]",
    ],
)
def test_what_is_no_json_is_said_so(text: str | bytes) -> None:
    with pytest.raises((UndecodableError, InvalidRequestError)) as refused:
        read_json(text)
    assert refused.value.code in {"not_json", "number_out_of_range"}


def test_a_byte_order_mark_and_odd_characters() -> None:
    assert read_json(b'\xef\xbb\xbf{"a": 1}') == {"a": 1}
    assert read_json('{"a\\u0000": ["\\ud83d", "\\ud83d\\ude00"]}') == {
        "a\ufffd": ["\ufffd", "\U0001f600"]
    }


@given(JSON)
def test_any_json_is_read_as_the_standard_library_does(value: Any) -> None:
    text = json.dumps(value)
    if "\\u0000" not in text:
        assert read_json(text) == json.loads(text)
