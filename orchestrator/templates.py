"""What Jinja templates mention. Nothing is ever rendered here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from orchestrator.model import Json

if TYPE_CHECKING:
    from jinja2 import Environment

__all__ = ["has_template", "mentioned", "undeclared"]


def has_template(text: str) -> bool:
    return "{{" in text or "{%" in text


def undeclared(value: Json) -> frozenset[str]:
    """Return the variables that the templates in a value mention and do not set themselves.

    Raises:
        ValueError: a template is not valid; the reason is in words.
    """
    names: set[str] = set()
    for text in _templates(value):
        names |= _undeclared(text)
    return frozenset(names)


def mentioned(value: Json) -> frozenset[str]:
    """Return the same for a value that somebody else checks: a broken template mentions nothing."""
    try:
        return undeclared(value)
    except ValueError:
        return frozenset()


def _templates(value: Json) -> Iterator[str]:
    match value:
        case str():
            if has_template(value):
                yield value
        case Mapping():
            for key, item in value.items():
                yield from _templates(key)
                yield from _templates(item)
        case list() | tuple():
            for item in value:
                yield from _templates(item)


@lru_cache(maxsize=4096)
def _undeclared(text: str) -> frozenset[str]:
    from jinja2 import TemplateSyntaxError, meta

    environment = _environment()
    try:
        return frozenset(meta.find_undeclared_variables(environment.parse(text)))
    except TemplateSyntaxError as error:
        raise ValueError(error.message or "not valid") from None


class _AnyName(dict[str, Callable[..., Any]]):
    """Filters and tests by any name: Ansible has many that plain Jinja does not know, and none is called here."""

    def get(self, key: str, default: object = None) -> Any:  # noqa: ARG002 - dict's signature
        return str

    def __contains__(self, key: object) -> bool:
        return True

    def __getitem__(self, key: str) -> Callable[..., Any]:
        return str


@lru_cache(maxsize=1)
def _environment() -> Environment:
    from jinja2 import Environment

    environment = Environment(extensions=["jinja2.ext.do", "jinja2.ext.loopcontrols"])  # noqa: S701 - never renders
    names: Any = _AnyName()
    environment.filters = environment.tests = names
    return environment
