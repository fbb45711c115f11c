"""The tool `calculate`: arithmetic in a parser that can do nothing else.

It runs on the event loop, so its time is bounded by what it accepts: few characters, integers of
few bits, no loops, no names but constants and functions of numbers.
"""

import ast
import math
import operator
import warnings
from collections.abc import Callable
from typing import Any

import simpleeval
from pydantic import BaseModel, ConfigDict, Field

from turnstream.graph.ports.tools import ToolCallContext
from turnstream.graph.tools.function import FunctionTool
from turnstream.schemas.errors import ToolArgumentsError

EXPRESSION_CHARS_MAX = 500
INTEGER_BITS_MAX = 4096
_DIGITS_MAX = 100
Number = int | float


class CalculateArguments(BaseModel):
    """Arguments of `calculate`."""

    model_config = ConfigDict(extra="forbid")

    expression: str = Field(
        max_length=EXPRESSION_CHARS_MAX,
        description="arithmetic such as (1250 * 1.08) ** 2 / 3; + - * / // % ** and abs, round, "
        "min, max, sqrt, exp, log, log2, log10, sin, cos, tan, floor, ceil, pi, e",
    )


def _bounded(value: object) -> Number:
    """Return the number; refuses what is none, not finite, or too large."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ToolArgumentsError("the expression has a part that is no number")
    if isinstance(value, int):
        if value.bit_length() > INTEGER_BITS_MAX:
            raise ToolArgumentsError(f"a number has more than {INTEGER_BITS_MAX} bits")
    elif not math.isfinite(value):
        raise ToolArgumentsError("a number is too large")
    return value


def _multiply(left: Number, right: Number) -> Number:
    return _bounded(left * right)  # both have at most 4096 bits: cheap before the check too


def _power(left: Number, right: Number) -> Number:
    if isinstance(left, int) and isinstance(right, int) and right > 0:
        bits = max(left.bit_length(), 1) * right
        if bits > 2 * INTEGER_BITS_MAX and abs(left) > 1:
            raise ToolArgumentsError(f"a number has more than {INTEGER_BITS_MAX} bits")
    return _bounded(left**right)


def _round(value: Number, digits: Number = 0) -> Number:
    if not isinstance(digits, int) or abs(digits) > _DIGITS_MAX:
        raise ToolArgumentsError(f"round takes up to {_DIGITS_MAX} digits")
    return round(value, digits) if digits else round(value)


_OPERATORS: dict[type[ast.operator | ast.unaryop], Callable[..., Number]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: _multiply,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: _power,
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
}
_FUNCTIONS: dict[str, Callable[..., Number]] = {
    "abs": abs,
    "ceil": math.ceil,
    "cos": math.cos,
    "exp": math.exp,
    "floor": math.floor,
    "log": math.log,
    "log10": math.log10,
    "log2": math.log2,
    "max": max,
    "min": min,
    "round": _round,
    "sin": math.sin,
    "sqrt": math.sqrt,
    "tan": math.tan,
}
_NODES = (ast.BinOp, ast.UnaryOp, ast.Call, ast.Name, ast.Constant)


def calculate_number(expression: str) -> Number:
    """Return the value; raises `ToolArgumentsError` with words for the model."""
    if len(expression) > EXPRESSION_CHARS_MAX:
        raise ToolArgumentsError(f"at most {EXPRESSION_CHARS_MAX} characters")
    try:
        with warnings.catch_warnings():  # Python warns about odd literals
            warnings.simplefilter("ignore")
            tree = ast.parse(expression.strip(), mode="eval").body
        evaluator = simpleeval.SimpleEval(
            operators=_OPERATORS, functions=_FUNCTIONS, names={"pi": math.pi, "e": math.e}
        )
        evaluator.nodes = {
            node: _checked(handler) for node, handler in evaluator.nodes.items() if node in _NODES
        }
        return _bounded(evaluator.eval(expression, previously_parsed=tree))
    except ZeroDivisionError as error:
        raise ToolArgumentsError("division by zero") from error
    except SyntaxError as error:
        raise ToolArgumentsError("this is no arithmetic expression; ** is the power") from error
    except (OverflowError, RecursionError, MemoryError) as error:
        raise ToolArgumentsError("a number is too large, or the expression too deep") from error
    except (simpleeval.InvalidExpression, TypeError, ValueError) as error:
        raise ToolArgumentsError(f"this cannot be calculated: {error}"[:200]) from error


def _checked(handler: Callable[[Any], Any]) -> Callable[[Any], Number]:
    return lambda node: _bounded(handler(node))


def arithmetic_tool() -> FunctionTool[CalculateArguments]:
    """Return the tool."""

    async def calculate(arguments: CalculateArguments, _context: ToolCallContext) -> str:
        """Calculate an arithmetic expression exactly, up to floating point."""
        value = calculate_number(arguments.expression)
        return str(value) if isinstance(value, int) else format(value, ".15g")

    return FunctionTool(calculate, CalculateArguments, timeout_s=5.0, effects=None)
