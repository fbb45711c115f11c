"""The tools that come with the agent."""

from __future__ import annotations

import contextlib
import math
import time
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from turnstream.graph.ports.tools import ToolCallContext
from turnstream.graph.tools import built_in_tools
from turnstream.graph.tools.arithmetic import EXPRESSION_CHARS_MAX, calculate_number
from turnstream.graph.tools.clock import current_time_tool
from turnstream.graph.tools.function import FunctionTool
from turnstream.schemas.errors import ToolArgumentsError

CONTEXT: ToolCallContext = None  # type: ignore[assignment]  # these tools do not look at it


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("1 + 2 * 3", 7),
        ("2 ** 10 - 1", 1023),
        ("-7 // 2", -4),
        ("7 % 4", 3),
        ("(1250 * 1.08) ** 2 / 3", 607500.0),
        ("sqrt(2) ** 2", pytest.approx(2)),
        ("round(2.5678, 2) + abs(-1)", 3.57),
        ("max(1, 2, 3) + min(4, 5)", 7),
        ("log(e) + cos(pi)", pytest.approx(0)),
        (" 1_000 ", 1000),
        ("2 ** 4000", 2**4000),
        ("1 ** 10 ** 300", 1),
        ("0 ** 5", 0),
        ("10 ** -2", 0.01),
    ],
)
def test_arithmetic(expression, value):
    assert calculate_number(expression) == value


@pytest.mark.parametrize(
    "expression",
    [
        "",
        "1 +",
        "1; 2",
        "x = 1",
        "1 / 0",
        "0 ** -1",
        "9 ** 9 ** 9",
        "2 ** 5000",
        "(2 ** 4000) * (2 ** 4000)",
        "1e308 * 10",
        "1e999",
        "(-8) ** 0.5",
        "round(1, -1000000000)",
        "round(1, 2.5)",
        "factorial(100000)",
        "'a' * 100",
        "[1] * 5",
        "True + 1",
        "1 if 1 else 2",
        "1 < 2",
        "1 << 5",
        "().__class__",
        "(1).real",
        "__import__('os')",
        "max",
        "max(1, key=abs)",
        "abs()",
        "sqrt(-1)",
        "lambda: 1",
        "1j",
        "(" * 240 + "1" + ")" * 240,
        "-" * 499 + "1",
        "9" * (EXPRESSION_CHARS_MAX + 1),
        "\x00",
        "\ud800",
        "\uff11\uff0b",
    ],
)
def test_what_is_no_arithmetic_is_refused_at_once(expression):
    start = time.monotonic()
    try:
        value = calculate_number(expression)
    except ToolArgumentsError as error:
        assert len(str(error)) <= 200
    else:
        assert expression == "-" * 499 + "1"  # deep, but not too deep for every Python
        assert value == -1
    assert time.monotonic() - start < 30


@given(st.text(alphabet="0123456789.+-*/%() e,absqrtround", max_size=60))
def test_no_text_does_anything_else(expression):
    with contextlib.suppress(ToolArgumentsError):
        assert math.isfinite(calculate_number(expression))


async def test_numbers_are_written_for_people():
    tool = built_in_tools()[1]
    for expression, text in (("0.1 + 0.2", "0.3"), ("10 / 4", "2.5"), ("2 ** 70", str(2**70))):
        assert await tool.run(tool.check({"expression": expression}), CONTEXT) == text


async def test_current_time():
    tool = current_time_tool(lambda: datetime(2026, 11, 22, 16, 0, tzinfo=UTC))
    assert await tool.run(tool.check({"zone": "Asia/Seoul"}), CONTEXT) == {
        "zone": "Asia/Seoul",
        "time": "2026-11-23T01:00:00+09:00",
        "weekday": "Monday",
    }
    assert (await tool.run(tool.check({}), CONTEXT))["zone"] == "UTC"


@pytest.mark.parametrize(
    "zone", ["Seoul", "Asia", "../../etc/passwd", "/etc/passwd", "", "\x00", "\ud800", "x" * 65]
)
async def test_what_is_no_zone_is_refused(zone):
    tool = current_time_tool()
    with pytest.raises(ToolArgumentsError):
        await tool.run(tool.check({"zone": zone}), CONTEXT)


def test_a_tool_tells_the_model_what_it_takes():
    for tool in built_in_tools():
        assert tool.spec.description
        assert tool.spec.parameters["type"] == "object"
        assert "title" not in tool.spec.parameters
        for schema in tool.spec.parameters["properties"].values():
            assert schema["description"]
            assert "title" not in schema


class Titled(BaseModel):
    title: str = Field(description="a property of that name stays")


async def test_a_plain_function_is_a_tool():
    def shout(arguments: Titled, _context: ToolCallContext) -> str:
        """Shout a title."""
        return arguments.title.upper()

    tool = FunctionTool(shout, Titled)
    assert tool.spec.name == "shout"
    assert tool.spec.description == "Shout a title."
    assert list(tool.spec.parameters["properties"]) == ["title"]
    assert await tool.run(tool.check({"title": "x"}), CONTEXT) == "X"
