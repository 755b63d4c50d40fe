"""Whether a value suits an option, by Ansible's argument types and their lenient coercions.

Stricter than Ansible in two points that are mistakes whenever they happen: a list or mapping is no text, and true is
no number. Templates and references are not checked: what they stand for is not known yet.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Iterator, Mapping

from orchestrator.errors import Location, Problem, closest
from orchestrator.model import Json, Option, OutputRef, SecretRef, Value
from orchestrator.templates import has_template

__all__ = ["check_value"]

_BOOLEANS = frozenset(
    ("true", "t", "yes", "y", "on", "1", "1.0", "false", "f", "no", "n", "off", "0", "0.0"),
)
_BYTES = re.compile(r"[0-9]*\.?[0-9]+\s*([BbYyZzEePpTtGgMmKk]|[YZEPTGMK]B)?\s*")
_BITS = re.compile(r"[0-9]*\.?[0-9]+\s*([BbYyZzEePpTtGgMmKk]|[YZEPTGMK]b)?\s*")


def check_value(option: Option, value: Value, where: Location | None = None) -> list[Problem]:
    """Return what is wrong with a value for an option of a role; every problem gets the place `where`."""
    return [
        Problem(code=code, summary=summary, where=where, hint=hint)
        for code, summary, hint in _check(option, value, option.name)
    ]


_Fault = tuple[str, str, str]  # code, summary, hint


def _check(option: Option, value: Value, name: str) -> Iterator[_Fault]:
    if _unknown_yet(value):
        return
    if value is None:
        if option.required:
            yield "value.required", f"{name} is required and must not be empty", ""
        return
    fits, words = _TYPES[option.type]
    if not fits(value):
        yield "value.type", f"{name} must be {words}{_not(option, value)}", ""
        return
    if option.choices:
        yield from _check_choices(option, value, name)
    if option.type == "list" and isinstance(value, list | tuple):
        yield from _check_elements(option, value, name)
    elif option.options and isinstance(value, Mapping):
        yield from _check_nested(option, value, name)


def _check_choices(option: Option, value: Value, name: str) -> Iterator[_Fault]:
    allowed = {_text(choice) for choice in option.choices}
    for item in _items(value) if option.type == "list" else [value]:
        if _unknown_yet(item) or _text(item) in allowed:
            continue
        listed = ", ".join(str(choice) for choice in option.choices)
        guess = "" if option.secret else closest(str(item), map(str, option.choices))
        yield "value.choice", f"{name} must be one of {listed}{_not(option, item)}.{guess}", ""


def _check_elements(option: Option, value: list[Value] | tuple[Value, ...], name: str) -> Iterator[_Fault]:
    if not option.elements:
        return
    element = Option(
        name=option.name,
        type=option.elements,
        required=True,
        options=option.options,
        secret=option.secret,
    )
    for index, item in enumerate(value):
        yield from _check(element, item, f"{name}[{index}]")


def _check_nested(option: Option, value: Mapping[str, Value], name: str) -> Iterator[_Fault]:
    for key, item in value.items():
        if key in option.options:
            yield from _check(option.options[key], item, f"{name}.{key}")
        elif not has_template(key):
            known = ", ".join(sorted(option.options))
            yield (
                "value.unknown-key",
                f'{name} has no key "{key}".{closest(key, option.options)}',
                f"known keys: {known}",
            )
    for key, nested in option.options.items():
        if nested.required and key not in value:
            yield "value.required", f'{name} needs the key "{key}"', nested.description


def _unknown_yet(value: Value) -> bool:
    return isinstance(value, SecretRef | OutputRef) or (isinstance(value, str) and has_template(value))


def _items(value: Value) -> list[Value]:
    if isinstance(value, str):
        return list(value.split(","))
    return list(value) if isinstance(value, list | tuple) else [value]


def _text(value: Json) -> str:
    return json.dumps(value, sort_keys=True) if isinstance(value, list | dict) else str(value)


def _not(option: Option, value: Value) -> str:
    """Return the wrong value for a message, never that of a secret."""
    if option.secret:
        return ""
    match value:
        case str():
            return f', not "{value}"' if len(value) <= 60 else f', not "{value[:57]}…"'
        case bool():
            return f", not {str(value).lower()}"
        case Mapping():
            return ", not a mapping"
        case list() | tuple():
            return ", not a list"
    return f", not {value}"


# --- types --------------------------------------------------------------------------------------------------------


def _is_text(value: Json) -> bool:
    return isinstance(value, str | int | float)


def _is_whole(value: Json) -> bool:
    match value:
        case bool():
            return False
        case int():
            return True
        case float():
            return value.is_integer()
        case str():
            return _is_number(value) and float(value).is_integer()
    return False


def _is_number(value: Json) -> bool:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return False
    try:
        float(value)
    except ValueError:
        return False
    return True


def _is_bool(value: Json) -> bool:
    match value:
        case bool():
            return True
        case str():
            return value.lower().strip() in _BOOLEANS
        case int() | float():
            return value in (0, 1)
    return False


def _is_list(value: Json) -> bool:
    return isinstance(value, list | tuple | str) or (isinstance(value, int | float) and not isinstance(value, bool))


def _is_mapping(value: Json) -> bool:
    if isinstance(value, Mapping):
        return True
    if not isinstance(value, str):
        return False
    if value.startswith("{"):
        for read in (json.loads, ast.literal_eval):
            try:
                return isinstance(read(value), dict)
            except (ValueError, SyntaxError, RecursionError, MemoryError):
                continue
        return False
    return "=" in value


def _is_json(value: Json) -> bool:
    return isinstance(value, str | list | tuple | Mapping)


def _is_bytes(value: Json) -> bool:
    return isinstance(value, str | int | float) and _BYTES.fullmatch(str(value)) is not None


def _is_bits(value: Json) -> bool:
    return isinstance(value, str | int | float) and _BITS.fullmatch(str(value)) is not None


_TYPES: dict[str, tuple[Callable[[Json], bool], str]] = {
    "str": (_is_text, "text"),
    "path": (_is_text, "a path"),
    "int": (_is_whole, "a whole number"),
    "float": (_is_number, "a number"),
    "bool": (_is_bool, "true or false"),
    "list": (_is_list, "a list"),
    "dict": (_is_mapping, "a mapping"),
    "raw": (lambda _: True, "anything"),
    "json": (_is_json, "JSON text, a list or a mapping"),
    "jsonarg": (_is_json, "JSON text, a list or a mapping"),
    "bytes": (_is_bytes, 'a size such as "512M"'),
    "bits": (_is_bits, 'a size in bits such as "1Mb"'),
}
