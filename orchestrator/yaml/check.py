"""Data -> pydantic model, with every violation as a Problem in plain words and the rest of the data kept.

A wrong part is left out and the data is checked again, so that later checks see everything that is right and all
problems of a file come out at once.
"""

from __future__ import annotations

import types
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from orchestrator.errors import closest
from orchestrator.model import Json
from orchestrator.yaml.findings import Findings
from orchestrator.yaml.loader import Vaulted
from orchestrator.yaml.places import Path, dotted

__all__ = ["parse", "shown"]

M = TypeVar("M", bound=BaseModel)

_MAX_ROUNDS = 20

_NEEDED = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "dict_type": "a mapping (key: value)",
    "model_type": "a mapping (key: value)",
    "list_type": "a list",
}
_KINDS = ((Vaulted, "a !vault value"), (type(None), "empty"), (Mapping, "a mapping"), (list | tuple, "a list"))
_BOUNDS = {
    "greater_than_equal": ("at least", "ge"),
    "greater_than": ("more than", "gt"),
    "less_than_equal": ("at most", "le"),
    "less_than": ("less than", "lt"),
}


def parse(model: type[M], findings: Findings, prefix: str, *, data: Json = None) -> tuple[M | None, frozenset[Path]]:
    """Return the document's data as `model`, and the paths that had to be left out.

    Violations are noted in `findings`, their codes begin with `prefix`. None: nothing usable is left.
    """
    data = findings.document.data if data is None else data
    dropped: set[Path] = set()
    for _ in range(_MAX_ROUNDS):
        try:
            return model.model_validate(data), frozenset(dropped)
        except ValidationError as failure:
            errors = failure.errors(include_url=False, include_context=True)
        wrong = set()
        for error in errors:
            path: Path = tuple(error["loc"])
            if path not in dropped:  # else a needed part is missing because it was wrong, which has been noted
                _note(findings, prefix, model, path, error)
            wrong.add(path[:-1] if error["type"] == "missing" else path)
        if () in wrong:
            break
        dropped |= wrong
        data = _without(data, wrong)
    return None, frozenset(dropped)


def _without(data: Json, wrong: Iterable[Path]) -> Json:
    """Return the data without the values at the given paths; only the collections around them are copied."""
    copied: dict[Path, Json] = {(): data.copy()}
    gone: dict[Path, set[str | int]] = {}
    for path in wrong:
        for length in range(1, len(path)):
            if path[:length] not in copied:
                parent = copied[path[: length - 1]]
                copied[path[:length]] = parent[path[length - 1]] = parent[path[length - 1]].copy()
        gone.setdefault(path[:-1], set()).add(path[-1])
    for path, keys in gone.items():
        for key in sorted(keys, reverse=True, key=lambda key: key if isinstance(key, int) else 0):
            if isinstance(key, int) or key in copied[path]:
                del copied[path][key]
    return copied[()]


def _note(findings: Findings, prefix: str, model: type[BaseModel], path: Path, error: ErrorDetails) -> None:
    kind = error["type"]
    name = dotted(path) or "the file"
    if kind == "extra_forbidden":
        known = sorted(_fields(model, path[:-1]))
        around = f"in {dotted(path[:-1])}" if len(path) > 1 else "at the top level"
        findings.error(
            f"{prefix}.unknown-key",
            path,
            f'unknown key "{path[-1]}" {around}.{closest(str(path[-1]), known)}',
            hint=f"known keys: {', '.join(known)}" if known else "",
        )
    elif kind == "missing":
        around = dotted(path[:-1]) or "the file"
        findings.error(f"{prefix}.missing-key", path, f'{around} needs the key "{path[-1]}"')
    elif kind in _NEEDED:
        found = error["input"]
        hint = "put quotes around it" if kind == "string_type" and isinstance(found, int | float) else ""
        if found is None:
            hint = "take the key out to leave it at its default"
        if isinstance(found, Vaulted):
            hint = "only values under vars: can be encrypted; refer to a variable instead"
        findings.error(
            f"{prefix}.wrong-type",
            path,
            f"{name} must be {_NEEDED[kind]}, not {shown(found)}",
            hint=hint,
        )
    else:
        summary, hint = _bad_value(name, error)
        findings.error(f"{prefix}.bad-value", path, summary, hint=hint)


def _bad_value(name: str, error: ErrorDetails) -> tuple[str, str]:
    kind, found, context = error["type"], error["input"], error.get("ctx", {})
    if kind in _BOUNDS:
        words, key = _BOUNDS[kind]
        return f"{name} must be {words} {context[key]}, not {shown(found)}", ""
    if kind in ("literal_error", "enum"):
        choices = str(context["expected"]).replace("'", "")
        guess = closest(found, choices.replace(" or ", ", ").split(", ")) if isinstance(found, str) else ""
        return f"{name} must be {choices}, not {shown(found)}.{guess}", ""
    if kind == "string_too_short":
        return f"{name} must not be empty", ""
    return f"{name} {error['msg']}, not {shown(found)}", str(context.get("hint", ""))


def shown(value: Json) -> str:
    """Return a value as a message shows it: short, and nothing of an encrypted one."""
    if isinstance(value, str):
        return f'"{value}"' if len(value) <= 60 else f'"{value[:57]}…"'
    if isinstance(value, bool):
        return str(value).lower()
    return next((words for kind, words in _KINDS if isinstance(value, kind)), str(value))


def _fields(model: type[BaseModel], path: Path) -> set[str]:
    """Return the keys that the model knows at a path."""
    current: Any = model
    for part in path:
        current = _inside(current, part)
    current = _bare(current)
    if isinstance(current, type) and issubclass(current, BaseModel):
        return {field.alias or name for name, field in current.model_fields.items()}
    return set()


def _inside(annotation: Any, part: str | int) -> Any:
    annotation = _bare(annotation)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        for name, field in annotation.model_fields.items():
            if part in (name, field.alias):
                return field.annotation
        return None
    arguments = get_args(annotation)
    return arguments[-1] if arguments else None


def _bare(annotation: Any) -> Any:
    """Return an annotation without `| None`."""
    if get_origin(annotation) in (Union, types.UnionType):
        return next(one for one in get_args(annotation) if one is not type(None))
    return annotation
