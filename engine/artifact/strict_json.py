"""JSON to frozen dataclasses, strictly; the dataclasses' annotations are the schema.

A key that is missing, unknown or of the wrong type is an error that names it, and nothing is
silently ignored.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import is_dataclass
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from medfocus.errors import InputError

_T = TypeVar("_T")


def parse_json(text: str | bytes) -> Any:
    """Parse JSON in UTF-8, without repeated keys, NaN, infinities or oversized integers.

    Raises:
        ValueError: it is anything else.
        RecursionError: it is nested too deeply.
    """
    return json.loads(
        text.decode() if isinstance(text, bytes) else text,
        object_pairs_hook=_unique_keys,
        parse_float=_finite,
        parse_int=_short_int,
        parse_constant=_finite,
    )


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        raise ValueError("an object has the same key twice")
    return content


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is not a finite number")
    return value


def _short_int(text: str) -> int:
    # Longer numbers are not sizes or counts, and could overflow when converted to float.
    if len(text) > 18:
        raise ValueError("a number is too large")
    return int(text)


def read_dataclass(kind: type[_T], value: Any, key: str = "") -> _T:
    """Build a dataclass, and those nested in it, from a parsed JSON object.

    Args:
        kind: the dataclass; fields may be dataclasses, Literals, tuples, Mappings and JSON types.
        value: from `parse_json`.
        key: path of `value` in the document.

    Raises:
        InputError: its item is the path of the key at fault.
    """
    prefix = f"{key}." if key else ""
    if type(value) is not dict:
        raise _invalid(key, "is not an object")
    assert is_dataclass(kind)
    fields = get_type_hints(kind)
    if unknown := sorted(value.keys() - fields.keys()):
        raise _invalid(prefix + unknown[0], "is not a known key")
    for name in fields:
        if name not in value:
            raise _invalid(prefix + name, "is missing")
    content = {name: _read(hint, value[name], prefix + name) for name, hint in fields.items()}
    try:
        return kind(**content)
    except InputError as error:
        raise _invalid(prefix + error.item, error.problem) from error


def _read(kind: Any, value: Any, key: str) -> Any:
    """Convert `value` to the annotated type `kind`."""
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if is_dataclass(kind):
        return read_dataclass(kind, value, key)  # type: ignore[arg-type]
    if origin is Literal:
        if not any(type(value) is type(choice) and value == choice for choice in arguments):
            raise _invalid(key, f"is {value!r}, not one of {', '.join(map(str, arguments))}")
        return value
    if origin is tuple:
        if type(value) is not list:
            raise _invalid(key, "is not a list")
        if arguments[-1] is Ellipsis:
            arguments = arguments[:1] * len(value)
        if len(value) != len(arguments):
            raise _invalid(key, f"holds {len(value)} values, not {len(arguments)}")
        items = enumerate(zip(arguments, value, strict=True))
        return tuple(_read(argument, item, f"{key}[{i}]") for i, (argument, item) in items)
    if origin is Mapping:
        if type(value) is not dict:
            raise _invalid(key, "is not an object")
        return {name: _read(arguments[1], item, f"{key}.{name}") for name, item in value.items()}
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        raise _invalid(key, f"is not of type {kind.__name__}")
    if kind is str and not value.isprintable():
        raise _invalid(key, "holds a character that cannot be printed")
    return value


def _invalid(key: str, problem: str) -> InputError:
    return InputError(key, problem, "correct the value")
