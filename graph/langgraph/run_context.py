"""What `Runtime.context` holds for a turn of a brought graph. Pure."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError
from typing_extensions import is_typeddict

from turnstream.schemas.errors import InvalidRequestError
from turnstream.schemas.unexpected import class_name

if TYPE_CHECKING:
    from collections.abc import Mapping


def run_context(
    schema: Any, given: Mapping[str, object], configurable: Mapping[str, object]
) -> object:
    """Return the context: values of `given`, then of `configurable`, then the schema's defaults.

    Only names of the schema are looked up in `configurable`. Without a schema the context is what
    was given. Returns None if nothing was given and a field of the schema has no default. Raises
    `InvalidRequestError` (`invalid_context`) for values that the schema refuses.
    """
    if schema is None:
        return dict(given) or None
    fields = _fields(schema)
    if fields is None:
        return dict(given) or None
    values = {name: configurable[name] for name in fields if name in configurable}
    values |= {name: value for name, value in given.items() if name in fields}
    if is_typeddict(schema):
        return values
    try:
        return schema(**values)
    except ValidationError as error:
        if not values:
            return None
        wrong = "; ".join(
            f"{'.'.join(map(str, one['loc']))}: {one['msg']}"
            for one in error.errors(include_url=False, include_input=False, include_context=False)
        )
        raise _refused(wrong) from error
    except Exception as error:
        if not values:
            return None
        missing = ", ".join(sorted(name for name in fields - values.keys() if fields[name]))
        raise _refused(f"missing: {missing}" if missing else class_name(error)) from error


def _fields(schema: Any) -> dict[str, bool] | None:
    """Return the names that a schema knows, and whether each has to be given."""
    if is_typeddict(schema):
        return {name: name in schema.__required_keys__ for name in schema.__annotations__}
    if isinstance(schema, type) and issubclass(schema, BaseModel):
        found = {}
        for name, field in schema.model_fields.items():
            found[name] = field.is_required()
            if isinstance(field.alias, str):
                found[field.alias] = field.is_required()
        return found
    if dataclasses.is_dataclass(schema):
        empty = dataclasses.MISSING
        return {
            field.name: field.default is empty and field.default_factory is empty
            for field in dataclasses.fields(schema)
            if field.init
        }
    return None


def _refused(why: str) -> InvalidRequestError:
    return InvalidRequestError(f"context: {why}", code="invalid_context", field="context")
