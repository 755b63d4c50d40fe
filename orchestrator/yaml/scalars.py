"""What one scalar means: the few plain forms that are not text, and YAML's standard tags."""

from __future__ import annotations

import re

from orchestrator.model import Json

__all__ = ["COLLECTIONS", "convert", "resolve"]

_STANDARD = "tag:yaml.org,2002:"
COLLECTIONS = (None, "!", f"{_STANDARD}map", f"{_STANDARD}seq")
"""Tags that a mapping or list may have."""

_WORDS: dict[str, Json] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]{0,999})")  # a leading zero is meant: file modes, padded numbers
_OTHER_BASE = re.compile(r"0x[0-9a-fA-F]{1,999}|0o[0-7]{1,999}")
_FLOAT = re.compile(r"[-+]?(0|[1-9][0-9]*)?\.[0-9]+([eE][-+]?[0-9]+)?")  # a point is needed: 1e10 may be a hash
_MAY_START_OTHERS = frozenset("-+.0123456789~nNtTfF")


def resolve(text: str) -> Json:
    """Return what a plain (unquoted, untagged) scalar means."""
    if not text:
        return None
    if text[0] not in _MAY_START_OTHERS:
        return text
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.fullmatch(text):
        return int(text)
    if _OTHER_BASE.fullmatch(text):
        return int(text, 0)
    return float(text) if _FLOAT.fullmatch(text) else text


def convert(tag: str, text: str) -> Json:
    """Return what a tagged scalar means. Raises ValueError with the reason in words."""
    if tag in ("!", f"{_STANDARD}str"):
        return text
    value = resolve(text)
    match tag.removeprefix(_STANDARD):
        case "int" if isinstance(value, int) and not isinstance(value, bool):
            return value
        case "float" if isinstance(value, float | int) and not isinstance(value, bool):
            return float(value)
        case "bool" if isinstance(value, bool):
            return value
        case "null" if value is None:
            return None
        case "int" | "float" | "bool" | "null" as wanted:
            raise ValueError(f'"{text}" is not a value of the type "!!{wanted}"')
    raise ValueError(f'the tag "{tag.replace(_STANDARD, "!!")}" is not supported')
