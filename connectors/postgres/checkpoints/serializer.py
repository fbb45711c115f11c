"""LangGraph's serializer, with the text that log and results have.

LangGraph stores `?` for a lone surrogate; turnstream uses U+FFFD everywhere. Only text that needs
it is cleaned before it is stored. A value of more than `VALUE_BYTES_MAX` is refused: Postgres would
need longer to store it than a worker may be silent.
"""

from __future__ import annotations

import dataclasses
from contextvars import ContextVar
from typing import Any

import ormsgpack
from langgraph.checkpoint.serde import jsonplus
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from pydantic import BaseModel

from turnstream.schemas.errors import UnstorableStateError
from turnstream.schemas.text import clean_text
from turnstream.schemas.unexpected import class_name

VALUE_BYTES_MAX = 64 << 20
"""Bytes of one channel's value as it is stored; a larger value raises `UnstorableStateError`."""

DEPTH_MAX = 200

_STRICT: ContextVar[bool] = ContextVar("turnstream_strict_text", default=False)
# private names of the library; a test holds that they still work
_LENIENT_OPTION = jsonplus._option  # noqa: SLF001
_STRICT_OPTION = _LENIENT_OPTION & ~ormsgpack.OPT_REPLACE_SURROGATES


def _encode(data: object) -> bytes:
    option = _STRICT_OPTION if _STRICT.get() else _LENIENT_OPTION
    return ormsgpack.packb(data, default=jsonplus._msgpack_default, option=option)  # noqa: SLF001


jsonplus._msgpack_enc = _encode  # noqa: SLF001


class StateSerializer(JsonPlusSerializer):
    """Serializes states; raises `UnstorableStateError` for values that cannot be stored."""

    def dumps_typed(self, obj: object) -> tuple[str, bytes]:
        """Return the kind and the bytes of a value, its text cleaned."""
        try:
            kind, data = self._strictly(obj)
        except Exception:  # noqa: BLE001  a value's own model_dump may raise anything
            kind, data = self._cleaned(obj)
        if len(data) > VALUE_BYTES_MAX:
            raise UnstorableStateError(
                f"a value of the state has {len(data)} bytes, {VALUE_BYTES_MAX} are allowed"
            )
        return kind, data

    def _strictly(self, obj: object) -> tuple[str, bytes]:
        token = _STRICT.set(True)
        try:
            return super().dumps_typed(obj)
        finally:
            _STRICT.reset(token)

    def _cleaned(self, obj: object) -> tuple[str, bytes]:
        try:
            return super().dumps_typed(cleaned(obj))
        except Exception as error:
            known = isinstance(error, ormsgpack.MsgpackEncodeError)
            raise UnstorableStateError(
                f"a value of class {type(obj).__name__} cannot be stored"
                f" ({error if known else class_name(error)}): keep it out of the state"
            ) from error


def cleaned(value: Any, depth: int = 0) -> Any:  # noqa: PLR0911  one return a type
    """Return a copy of the value with U+FFFD for each lone surrogate in its texts."""
    if isinstance(value, str):
        return clean_text(value) if type(value) is str else value
    if depth > DEPTH_MAX:
        return value
    if isinstance(value, dict):
        return {cleaned(key, depth + 1): cleaned(item, depth + 1) for key, item in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(cleaned(item, depth + 1) for item in value))
    if isinstance(value, (list, tuple, set, frozenset)):
        return type(value)(cleaned(item, depth + 1) for item in value)
    if isinstance(value, BaseModel):
        fields = {name: cleaned(item, depth + 1) for name, item in value.__dict__.items()}
        return value.model_copy(update=fields)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.replace(
            value,
            **{
                field.name: cleaned(getattr(value, field.name), depth + 1)
                for field in dataclasses.fields(value)
                if field.init
            },
        )
    return value
