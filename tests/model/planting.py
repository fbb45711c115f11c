"""Planted errors: a rule left out, in the model or in the project's own reader.

Each one is an edit of a function's source, so that model and reader stay free of switches. The
search has to find it. A text that is not there exactly once is an error: the function has changed,
and so must the plant.
"""

from __future__ import annotations
import __future__

import inspect
import sys
import textwrap
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import CodeType


class Edit(NamedTuple):
    """In this function, `new` stands for `old`."""

    function: Callable[..., Any]
    old: str
    new: str


@dataclass(frozen=True)
class Plant:
    """An error. `rule` is what it breaks, `seed` a schedule in which it shows."""

    rule: str
    seed: int
    edits: tuple[Edit, ...]


def plant(rule: str, seed: int, *edits: tuple[Callable[..., Any], str, str]) -> Plant:
    """Return an error that breaks this rule."""
    return Plant(rule, seed, tuple(Edit(*edit) for edit in edits))


@contextmanager
def planted(error: Plant) -> Iterator[None]:
    """Have the error in the code while the context lasts."""
    sources: dict[Any, str] = {}
    for edit in error.edits:
        function = inspect.unwrap(edit.function)
        source = sources.get(function) or textwrap.dedent(inspect.getsource(function))
        if source.count(edit.old) != 1:
            raise LookupError(f"not once in {function.__qualname__}: {edit.old!r}")
        sources[function] = source.replace(edit.old, edit.new)
    before: dict[Any, CodeType] = {}
    try:
        for function, source in sources.items():
            before[function] = function.__code__
            function.__code__ = _compiled(function, source)
        yield
    finally:
        for function, code in before.items():
            function.__code__ = code


def _compiled(function: Any, source: str) -> CodeType:
    names = dict(vars(sys.modules[function.__module__]))
    flags = __future__.annotations.compiler_flag
    exec(compile(source, f"<planted in {function.__qualname__}>", "exec", flags), names)
    made: Any = inspect.unwrap(names[function.__name__])
    code: CodeType = made.__code__
    return code
