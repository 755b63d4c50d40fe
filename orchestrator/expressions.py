"""Jinja expressions and templates, evaluated in a sandbox: pure, deterministic, with nothing of Ansible's behind.

What they may use is Jinja's own filters and tests (but not `random`) and those of this file, where Ansible has one of
the same name with the same meaning. A template that uses more than that cannot be evaluated, which is no mistake: only
its host can say what it stands for.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache, wraps
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from orchestrator.model import Json

if TYPE_CHECKING:
    from jinja2 import Environment, Template, nodes

__all__ = ["FUNCTIONS", "Call", "EvaluationError", "calls", "evaluate", "names", "render", "template_names"]

FUNCTIONS = ("placed", "outputs", "here")
"""What an expression can ask about the placements of a capability; whoever evaluates gives them as values."""

_Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
_TRUE = frozenset(("true", "t", "yes", "y", "on", "1"))


class EvaluationError(Exception):
    """An expression has no value; the message says why, in words."""


class Call(NamedTuple):
    """A call of one of FUNCTIONS; `arguments` holds those that are literal text, in their order."""

    function: str
    arguments: tuple[str, ...]
    literal: bool  # whether all of them are
    line: int


def names(text: str) -> frozenset[str]:
    """Return the variables and functions that an expression mentions.

    Raises:
        ValueError: it is not valid, or uses a filter or test that is not there; the reason is in words.
    """
    _expression(text)
    return _undeclared("{{ " + text + "\n}}")


def template_names(text: str) -> frozenset[str]:
    """Return the same for a template."""
    _template(text)
    return _undeclared(text)


def calls(text: str, *, template: bool = False) -> tuple[Call, ...]:
    """Return the calls of FUNCTIONS in an expression or template. Raises ValueError as `names` does."""
    from jinja2 import nodes

    _ = _template(text) if template else _expression(text)
    found = []
    tree = _environment().parse(text if template else "{{ " + text + "\n}}")
    for call in tree.find_all(nodes.Call):
        if isinstance(call.node, nodes.Name) and call.node.name in FUNCTIONS:
            given = [item.value for item in call.args if isinstance(item, nodes.Const) and isinstance(item.value, str)]
            plain = len(given) == len(call.args) and not (call.kwargs or call.dyn_args or call.dyn_kwargs)
            found.append(Call(call.node.name, tuple(given), plain, call.lineno))
    return tuple(found)


def evaluate(text: str, values: Mapping[str, Json]) -> Json:
    """Return the value of an expression. Raises EvaluationError; `names` tells whether it is valid."""
    from jinja2 import Undefined

    found = _safely(lambda: _result(_expression(text), values))
    if isinstance(found, Undefined):
        raise EvaluationError("it leads to something that does not exist")
    return found


def render(text: str, values: Mapping[str, Json]) -> Json:
    """Return what a template stands for: of a single expression its value, else text. Raises EvaluationError."""
    try:
        whole = _only_expression(text)
        if whole is not None:
            return evaluate(whole, values)
        return _safely(lambda: _template(text).render(values))
    except ValueError as error:
        raise EvaluationError(str(error)) from None


def _safely(compute: Callable[[], Json]) -> Json:
    """Return what a compiled expression gives; what it raises of its own is a matter of the values it got."""
    from jinja2 import TemplateError

    try:
        return compute()
    except TemplateError as error:
        raise EvaluationError(error.message or "not valid") from None
    except (TypeError, ValueError, ArithmeticError, LookupError, AttributeError, RecursionError) as error:
        raise EvaluationError(f"{type(error).__name__}: {error}") from None


@lru_cache(maxsize=4096)
def _undeclared(text: str) -> frozenset[str]:
    from jinja2 import meta

    return frozenset(meta.find_undeclared_variables(_environment().parse(text))) - _environment().globals.keys()


@lru_cache(maxsize=4096)
def _expression(text: str) -> Template:
    _compiled(lambda: _environment().compile_expression(text))  # nothing but an expression
    template: Template = _compiled(lambda: _environment().from_string("{% set result = " + text + "\n%}"))
    return template


def _result(template: Template, values: Mapping[str, Json]) -> Json:
    """Return what an expression comes to. As Jinja's own way, without its copies: a large site evaluates many."""
    context = template.new_context({**template.globals, **values}, shared=True)
    for _ in template.root_render_func(context):
        pass
    return context.vars["result"]


@lru_cache(maxsize=4096)
def _template(text: str) -> Any:
    return _compiled(lambda: _environment().from_string(text))


def _compiled(compile_: Callable[[], Any]) -> Any:
    from jinja2 import TemplateSyntaxError

    try:
        return compile_()
    except TemplateSyntaxError as error:  # an unknown filter or test, too
        raise ValueError((error.message or "not valid").rstrip(".")) from None


@lru_cache(maxsize=4096)
def _only_expression(text: str) -> str | None:
    """Return the expression that a template consists of, if that is all that it is."""
    from jinja2 import TemplateSyntaxError, nodes

    bare = text.strip()
    if not (bare.startswith("{{") and bare.endswith("}}")):
        return None
    try:
        body = _environment().parse(bare).body
    except TemplateSyntaxError as error:
        raise ValueError(error.message or "not valid") from None
    if len(body) != 1 or not isinstance(body[0], nodes.Output) or len(body[0].nodes) != 1:
        return None
    only: nodes.Node = body[0].nodes[0]
    return None if isinstance(only, nodes.TemplateData) else bare[2:-2].strip("-").strip()


@lru_cache(maxsize=1)
def _environment() -> Environment:
    from jinja2 import StrictUndefined
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined, autoescape=False)
    del environment.filters["random"]
    for name in ("lipsum", "cycler", "joiner"):
        del environment.globals[name]
    for name in ("items", "map", "reject", "rejectattr", "select", "selectattr", "unique"):
        environment.filters[name] = _listed(environment.filters[name])
    environment.filters.update(_FILTERS)
    environment.tests.update(_TESTS)
    return environment


# --- filters ------------------------------------------------------------------------------------------------------


def _listed(filter_: Callable[..., Iterable[Json]]) -> Callable[..., list[Json]]:
    """Return a filter that gives a list instead of a generator, which has no length and is used up at once."""

    @wraps(filter_)
    def listed(*args: Json, **kwargs: Json) -> list[Json]:
        return list(filter_(*args, **kwargs))

    return listed


def _bool(value: Json) -> bool:
    return value.strip().lower() in _TRUE if isinstance(value, str) else bool(value)


def _flatten(value: Iterable[Json]) -> list[Json]:
    found: list[Json] = []
    for item in value:
        found += _flatten(item) if isinstance(item, list | tuple) else [item]
    return found


def _union(one: Iterable[Json], other: Iterable[Json]) -> list[Json]:
    found: list[Json] = []
    for item in (*one, *other):
        if item not in found:
            found.append(item)
    return found


def _intersect(one: Iterable[Json], other: Iterable[Json]) -> list[Json]:
    wanted = list(other)
    return [item for item in _union(one, ()) if item in wanted]


def _difference(one: Iterable[Json], other: Iterable[Json]) -> list[Json]:
    unwanted = list(other)
    return [item for item in _union(one, ()) if item not in unwanted]


def _duplicates(value: Iterable[Json]) -> list[Json]:
    """Return what a list holds more than once, once each."""
    items = list(value)
    return [item for item in _union(items, ()) if items.count(item) > 1]


def _overlaps(value: Iterable[Json]) -> list[str]:
    """Return the pairs of a list of ranges or networks that overlap, each as "one and other"."""
    spans = [(str(item), span) for item in value if (span := _span(str(item)))]
    return [
        f"{one} and {other}"
        for index, (one, (kind, low, high)) in enumerate(spans)
        for other, (kind2, low2, high2) in spans[index + 1 :]
        if kind == kind2 and low <= high2 and low2 <= high
    ]


def _combine(*mappings: Mapping[str, Json]) -> dict[str, Json]:
    return {name: item for mapping in mappings for name, item in mapping.items()}


def _split(value: str, separator: str | None = None) -> list[str]:
    return value.split(separator)


def _ternary(value: Json, when_true: Json, when_false: Json) -> Json:
    return when_true if _bool(value) else when_false


def _regex_replace(value: str, pattern: str, replacement: str) -> str:
    return re.sub(pattern, replacement, value)


# --- tests --------------------------------------------------------------------------------------------------------

_NUMBERS = re.compile(r"(?:(.+):)?(\d{1,18})[:-](\d{1,18})")
_Span: TypeAlias = tuple[str, int, int]  # what is counted (a label, or the kind of address), first, last


def _span(text: str) -> _Span | None:
    """Return what a range stands for: a network, `first-last` of addresses, `label:1:9`, `1:9` or `1-9`."""
    if address := _network(text):
        return f"IPv{address.version}", int(address.network_address), int(address.broadcast_address)
    if found := _NUMBERS.fullmatch(text):
        return f":{found[1] or ''}", int(found[2]), int(found[3])
    first, dash, last = text.partition("-")
    low, high = _address(first), _address(last)
    if dash and low and high and low.version == high.version:
        return f"IPv{low.version}", int(low), int(high)
    return None


def _address(value: Json) -> _Address | None:
    try:
        return ipaddress.ip_address(value.strip()) if isinstance(value, str) else None
    except ValueError:
        return None


def _network(value: Json, *, strict: bool = False) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    try:
        return ipaddress.ip_network(value.strip(), strict=strict) if isinstance(value, str) else None
    except ValueError:
        return None


def _is_address(value: Json) -> bool:
    return _address(value) is not None


def _is_cidr(value: Json) -> bool:
    """Whether a text is a network with its length, and no host in it: 10.0.0.0/24."""
    return isinstance(value, str) and "/" in value and _network(value, strict=True) is not None


def _is_inside(value: Json, around: Json) -> bool:
    """Whether addresses, ranges or networks, one or a list, lie in one of the networks (texts, or the spec's)."""
    spans = [_span(str(item)) for item in (value if isinstance(value, list | tuple) else [value])]
    wide = [span for text in _cidrs(around) if (span := _span(text))]
    return all(
        span and any(kind == span[0] and low <= span[1] <= span[2] <= high for kind, low, high in wide)
        for span in spans
    )


def _cidrs(around: Json) -> Iterator[str]:
    match around:
        case str():
            yield around
        case {"cidr": str(text)}:
            yield text
        case Mapping():
            for item in around.values():
                yield from _cidrs(item)
        case list() | tuple():
            for item in around:
                yield from _cidrs(item)


def _is_subset(value: Iterable[Json], of: Iterable[Json]) -> bool:
    return not _difference(value, of)


def _is_superset(value: Iterable[Json], of: Iterable[Json]) -> bool:
    return not _difference(of, value)


def _contains(value: Json, item: Json) -> bool:
    return item in value


def _matches(value: str, pattern: str) -> bool:
    return re.match(pattern, value) is not None


def _found(value: str, pattern: str) -> bool:
    return re.search(pattern, value) is not None


_FILTERS: Mapping[str, Callable[..., Json]] = {
    "bool": _bool,
    "combine": _combine,
    "difference": _difference,
    "duplicates": _duplicates,
    "flatten": _flatten,
    "intersect": _intersect,
    "overlaps": _overlaps,
    "regex_replace": _regex_replace,
    "split": _split,
    "ternary": _ternary,
    "union": _union,
}
_TESTS: Mapping[str, Callable[..., bool]] = {
    "address": _is_address,
    "cidr": _is_cidr,
    "contains": _contains,
    "inside": _is_inside,
    "match": _matches,
    "search": _found,
    "subset": _is_subset,
    "superset": _is_superset,
}
