"""Conditions on one property, as people write them: `x86_64`, `leaf-3*`, `">= 128"`, `100 GB .. 2 TB`, `[a, b]`."""

from __future__ import annotations

import fnmatch
import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from orchestrator.errors import closest
from orchestrator.facts import Kind, Property
from orchestrator.model import Json

__all__ = ["AT_LEAST_ONE", "COUNT", "Condition", "Fault", "Path", "glob", "parse", "shown"]

Path: TypeAlias = tuple[str | int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What is wrong with a rule as written; `path` leads to it from the rule's own mapping."""

    path: Path
    summary: str
    hint: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """`wanted` is the condition in words, `holds` tells whether a property's value meets it."""

    wanted: str
    holds: Callable[[Json], bool]


COUNT = Property(kind=Kind.NUMBER, about="how many")

_DECIMAL = {"b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12, "pb": 10**15}
_BINARY = {"kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40, "pib": 2**50}
_UNITS: Mapping[str, int] = {**_DECIMAL, **_BINARY}
_SPELLED = {name: name.upper().replace("IB", "iB") for name in _UNITS}

_OPERATORS: Mapping[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
_WORDS = {">=": "at least", "<=": "at most", ">": "more than", "<": "less than"}
_COMPARISON = re.compile(r"\s*(>=|=>|<=|=<|!=|==|=|>|<|!)?\s*(.*?)\s*", re.DOTALL)
_AMOUNT = re.compile(r"(\d{1,18}(?:\.\d{1,9})?)\s*([A-Za-z]*)")
_CLOSE = 0.01
"""How far a size may be off and still be equal: a "480 GB" disk has 480.1 GB, behind a RAID controller 479.6 GB."""


def parse(property_: Property, raw: Json, path: Path) -> Condition | Fault:
    """Return the condition that `raw` writes down for a property, or what is wrong with it."""
    if isinstance(raw, list):
        return _any_of(property_, raw, path)
    if raw is None or isinstance(raw, Mapping):
        return Fault(
            path=path, summary="has no condition" if raw is None else "takes no further keys", hint=_form(property_)
        )
    try:
        match property_.kind:
            case Kind.NUMBER | Kind.SIZE:
                return _amount(property_, raw)
            case Kind.FLAG:
                return _flag(raw)
        return _text(property_, raw)
    except _Unfit as reason:
        return Fault(path=path, summary=str(reason), hint=reason.hint or _form(property_))


class _Unfit(Exception):  # noqa: N818 - never leaves this file
    def __init__(self, reason: str, hint: str = "") -> None:
        super().__init__(reason)
        self.hint = hint


def _form(property_: Property) -> str:
    match property_.kind:
        case Kind.NUMBER:
            return 'write a number, ">= 2", "2 .. 8" or "!= 2"'
        case Kind.SIZE:
            return 'write ">= 100 GB", "100 GB .. 2 TB" or a size with its unit'
        case Kind.FLAG:
            return "write true or false"
        case Kind.LIST:
            return 'write a count (">= 2") or conditions under it'
    return 'write a text, "leaf-*", "!= text", a list of texts, or true for any'


def _any_of(property_: Property, raw: Sequence[Json], path: Path) -> Condition | Fault:
    if not raw:
        return Fault(path=path, summary="is an empty list, which nothing can match", hint=_form(property_))
    parts = []
    for at, item in enumerate(raw):
        if isinstance(item, list):
            return Fault(path=(*path, at), summary="is a list within a list", hint=_form(property_))
        if isinstance(item, str) and item.lstrip().startswith("!") and len(raw) > 1:
            hint = "put the values that must not be under `not`"
            return Fault(
                path=(*path, at), summary="is a negation in a list of alternatives: nearly all match", hint=hint
            )
        part = parse(property_, item, (*path, at))
        if isinstance(part, Fault):
            return part
        parts.append(part)
    return Condition(
        wanted=" or ".join(part.wanted for part in parts), holds=lambda value: any(part.holds(value) for part in parts)
    )


# --- amounts ------------------------------------------------------------------------------------------------------


def _amount(property_: Property, raw: Json) -> Condition:
    if isinstance(raw, bool):
        raise _Unfit("is true or false, not an amount")
    if isinstance(raw, int | float):
        return _equal(property_, *_measure(property_, str(raw) if math.isfinite(raw) else "infinity"))
    if not isinstance(raw, str):
        raise _Unfit("is no amount")
    if ".." in raw:
        return _between(property_, raw)
    sign, text = _split(raw)
    value, words = _measure(property_, text)
    if sign == "!=":
        equal = _equal(property_, value, words).holds
        return Condition(wanted=f"not {words}", holds=lambda found: found is not None and not equal(found))
    if not sign:
        return _equal(property_, value, words)
    compare = _OPERATORS[sign]
    return Condition(wanted=f"{_WORDS[sign]} {words}", holds=lambda found: found is not None and compare(found, value))


def _split(raw: str) -> tuple[str, str]:
    found = _COMPARISON.fullmatch(raw)
    sign, text = (found[1] or "", found[2]) if found else ("", raw)
    if sign in {"=>", "=<", "!"}:
        right = {"=>": ">=", "=<": "<=", "!": "!="}[sign]
        raise _Unfit(f'"{raw[:60]}" starts with "{sign}", which is no comparison', f'write "{right} {text[:40]}"')
    if sign and not text:
        raise _Unfit(f'"{raw[:60]}" compares with nothing')
    return ("" if sign in {"=", "=="} else sign), text


def _between(property_: Property, raw: str) -> Condition:
    first, _, last = (part.strip() for part in raw.partition(".."))
    if not first and not last:
        raise _Unfit(f'"{raw[:60]}" has neither a beginning nor an end')
    least, low = _measure(property_, first) if first else (0.0, "")
    most, high = _measure(property_, last) if last else (math.inf, "")
    if least > most:
        raise _Unfit(f'"{raw[:60]}" ends before it begins', f'write "{last} .. {first}"')
    words = f"{low} to {high}" if low and high else f"at least {low}" if low else f"at most {high}"
    return Condition(wanted=words, holds=lambda found: found is not None and least <= found <= most)


def _equal(property_: Property, value: float, words: str) -> Condition:
    near = value * _CLOSE if property_.kind is Kind.SIZE else 1e-9
    return Condition(wanted=words, holds=lambda found: found is not None and abs(found - value) <= near)


def _measure(property_: Property, text: str) -> tuple[float, str]:
    """Return an amount in the property's own unit, and its words."""
    found = _AMOUNT.fullmatch(text)
    if found is None:
        raise _Unfit(f'"{text[:60]}" is no amount')
    number, unit = float(found[1]), found[2]
    if property_.kind is Kind.NUMBER:
        if unit:
            raise _Unfit(f'"{text[:60]}" has the unit "{unit[:20]}", but this is a plain number')
        return number, f"{number:g}"
    if not unit:
        if not property_.bare:
            raise _Unfit(
                f'"{text[:60]}" has no unit', f'write "{found[1]} GB" or another of {", ".join(_SPELLED.values())}'
            )
        return number, f"{number:g} {_bare_unit(property_)}"
    if unit.lower() not in _UNITS:
        raise _Unfit(f'"{text[:60]}" has the unknown unit "{unit[:20]}"', _unit_hint(found[1], unit))
    return number * _UNITS[unit.lower()] / (property_.bare or 1), f"{number:g} {_SPELLED[unit.lower()]}"


def _bare_unit(property_: Property) -> str:
    return next((_SPELLED[name] for name, factor in _UNITS.items() if factor == property_.bare), "B")


def _unit_hint(number: str, unit: str) -> str:
    letter = unit.upper()
    if letter in {"K", "M", "G", "T", "P"}:
        return (
            f'write "{number} {letter}B" (decimal, as disks are sold) or "{number} {letter}iB" (binary, as memory is)'
        )
    return f"units are {', '.join(_SPELLED.values())}"


# --- texts and flags ----------------------------------------------------------------------------------------------


def _flag(raw: Json) -> Condition:
    if not isinstance(raw, bool):
        raise _Unfit(f'"{str(raw)[:60]}" is neither true nor false')
    return Condition(wanted="true" if raw else "false", holds=lambda found: found is raw)


def _text(property_: Property, raw: Json) -> Condition:
    """Return a condition on a text, or on any of several; true and false ask whether there is any."""
    if isinstance(raw, bool):
        return Condition(wanted="any" if raw else "none", holds=lambda found: bool(found) is raw)
    if not isinstance(raw, str | int | float):
        raise _Unfit("is no text")
    sign, text = _split(raw) if isinstance(raw, str) else ("", str(raw))
    if sign in _OPERATORS:
        raise _Unfit(f'"{str(raw)[:60]}" compares by size, but this is a text')
    if property_.choices and not any(map(glob(text), property_.choices)):
        raise _Unfit(
            f'"{text[:60]}" is none of {", ".join(property_.choices)}.{closest(text.lower(), property_.choices)}',
        )
    matches = glob(text)
    if property_.kind is Kind.TEXTS:
        holds: Callable[[Json], bool] = lambda found: any(map(matches, found))  # noqa: E731 - as its neighbours
    else:
        holds = matches
    if sign == "!=":
        return Condition(wanted=f"not {text}", holds=lambda found: not holds(found))
    return Condition(wanted=text or "empty", holds=holds)


def glob(pattern: str) -> Callable[[str], bool]:
    """Return a test for texts that match a pattern with * ? and [...], whatever their case."""
    folded = pattern.casefold()
    if not re.search(r"[*?\[]", folded):
        return lambda text: text.casefold() == folded
    compiled = re.compile(fnmatch.translate(folded))
    return lambda text: compiled.match(text.casefold()) is not None


AT_LEAST_ONE = Condition(wanted="at least 1", holds=lambda found: found is not None and found >= 1)


def shown(property_: Property, value: Json) -> str:
    """Return a property's value in words."""
    match value:
        case None:
            return "not known"
        case bool():
            return str(value).lower()
        case int() | float():
            return _shown_amount(property_, value)
        case str():
            return value or "empty"
    texts = [str(item) for item in value]
    return ", ".join(texts[:8]) + (f" and {len(texts) - 8} more" if len(texts) > 8 else "") or "none"


def _shown_amount(property_: Property, value: float) -> str:
    if property_.kind is not Kind.SIZE:
        return f"{value:g}"
    size = value * (property_.bare or 1)
    units = _BINARY if property_.bare else _DECIMAL
    name, factor = next(((n, f) for n, f in reversed(units.items()) if size >= f), ("b", 1))
    return f"{round(size / factor, 2):g} {_SPELLED[name]}"
