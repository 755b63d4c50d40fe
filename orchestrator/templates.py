"""What Jinja templates mention. Nothing is ever rendered here."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from orchestrator.model import Json

if TYPE_CHECKING:
    from jinja2 import Environment, nodes

__all__ = [
    "FILES",
    "SETTLED",
    "Asked",
    "asks_controller",
    "has_template",
    "leads_out",
    "may_ask",
    "mentioned",
    "short_name",
    "texts",
    "undeclared",
]

SETTLED = frozenset(
    {
        *("vars", "varnames", "dict", "items", "list", "flattened", "nested", "cartesian", "together", "sequence"),
        *("subelements", "indexed_items", "random_choice", "first_found"),
    }
)
"""Lookups that read variables only, or choose among the role's own files."""

FILES = frozenset({"template", "file", "fileglob"})
"""Lookups that read the role's own files, unless their path leads out of the role."""

_CALLS = frozenset({"lookup", "query", "q"})
_NAMES = frozenset(
    {
        *("hostvars", "groups", "play_hosts", "ansible_play_hosts", "ansible_play_hosts_all", "ansible_play_batch"),
        *("playbook_dir", "inventory_dir", "inventory_file", "ansible_config_file", "ansible_playbook_python"),
    }
)
"""Variables that tell of other hosts, or of the controller's folders."""

_ITSELF = frozenset({"inventory_hostname", "node_name"})  # hostvars of the host itself are variables like any other
_SUSPECT = re.compile(
    rf"\b(?:lookup|query|q)\s*\(|\b(?:{'|'.join(sorted(_NAMES))})\b|(?:\||\bis(?:\s+not)?)\s*\w+\.\w+\.\w"
)
_OTHER_BRACES = "#jinja2:"
_SHORT = re.compile(r"^ansible\.(builtin|legacy)\.")


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


def texts(value: Json) -> Iterator[str]:
    """Yield every text among the values that a value holds, templates or not; keys of mappings are names."""
    match value:
        case str():
            yield value
        case Mapping():
            for item in value.values():
                yield from texts(item)
        case list() | tuple():
            for item in value:
                yield from texts(item)


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


# --- what only the controller knows -------------------------------------------------------------------------------


class Asked(NamedTuple):
    """What a template asks the controller for, "lookup('env')", and in which of its lines."""

    what: str
    line: int


def asks_controller(text: str, *, bare: bool = False, files: bool = True) -> Asked | None:
    """Return the first thing in a template that only the controller can answer.

    `bare`: the text is an expression without braces, as in `when:`. `files`: the files of a role are at hand.
    """
    if not may_ask(text):  # nearly every text: parsing is what costs
        return None
    if has_template(text) or text.startswith(_OTHER_BRACES):
        return _asks(text, files)
    return _asks("{{ " + text + " }}", files) if bare else None


def may_ask(text: str) -> bool:
    """Whether anything in a text looks like that: what saves reading most files."""
    return bool(_SUSPECT.search(text))


def leads_out(path: str, items: Json = None) -> bool:
    """Whether a path may lead out of its role: it is absolute, climbs, or begins with what nobody knows before the run.

    `items` is what the task loops over, when that is written out.
    """
    if not has_template(path):
        return _climbs(path)
    tree = _parsed(path)
    first = next(iter(tree.body), None) if tree else None
    parts = getattr(first, "nodes", None)
    return ".." in path or not parts or _unknown(parts[0], items)


def short_name(plugin: str) -> str:
    """Return the name of a module, lookup or filter without the namespace that everybody has."""
    return _SHORT.sub("", plugin)


@lru_cache(maxsize=4096)
def _asks(text: str, files: bool) -> Asked | None:
    from jinja2 import nodes

    # A header may change the braces, and what cannot be parsed may be anything: then words alone must do.
    tree = None if text.startswith(_OTHER_BRACES) else _parsed(text)
    if tree is None:
        found = _SUSPECT.search(text)
        assert found is not None
        return Asked(found[0].rstrip("( "), text.count("\n", 0, found.start()) + 1)
    own = {id(node.node) for node in tree.find_all(nodes.Getitem) if getattr(node.arg, "name", "") in _ITSELF}
    names = _NAMES & _undeclared(text)
    for node in tree.find_all((nodes.Call, nodes.Name, nodes.Filter, nodes.Test)):
        what = ""
        match node:
            case nodes.Call(node=nodes.Name(name=name)) if name in _CALLS:
                what = _lookup(node, files)
            case nodes.Name(name=name) if name in names and not (name == "hostvars" and id(node) in own):
                what = name
            case nodes.Filter(name=name) | nodes.Test(name=name) if short_name(name).count(".") > 1:
                what = name
        if what:
            return Asked(what, node.lineno)
    return None


def _lookup(call: nodes.Call, files: bool) -> str:
    """Return a lookup as people write it if it looks at the controller, else nothing."""
    from jinja2 import nodes

    plugin = call.args[0] if call.args else None
    if not isinstance(plugin, nodes.Const):
        return "a lookup of a computed name"
    name, terms = short_name(str(plugin.value)), call.args[1:]
    if name in FILES:
        fine = files and not any(_unknown(term, None) for term in terms)
    else:
        literals = [str(item.value) for item in call.find_all(nodes.Const) if item is not plugin]
        fine = name in SETTLED and (name != "first_found" or not any(map(_climbs, literals)))
    return "" if fine else f"lookup('{name}')"


def _unknown(node: nodes.Node, items: Json) -> bool:
    """Whether the path that an expression gives may lead out of the role; its beginning decides."""
    from jinja2 import nodes

    while isinstance(node, (nodes.Concat, nodes.Add)):
        node = node.nodes[0] if isinstance(node, nodes.Concat) else node.left
    paths: list[Json]
    match node:
        case nodes.TemplateData(data=text) | nodes.Const(value=text):
            return _climbs(str(text))
        case nodes.Filter(name="basename") | nodes.Name(name="role_path"):
            return False
        case nodes.Name(name="item") if isinstance(items, list):
            paths = items
        case nodes.Getattr(node=nodes.Name(name="item"), attr=key) if isinstance(items, list):
            paths = [item.get(key) if isinstance(item, Mapping) else None for item in items]
        case _:
            return True
    return not all(isinstance(path, str) and not leads_out(path) for path in paths)


def _climbs(path: str) -> bool:
    return path.startswith(("/", "~")) or ".." in path.split("/")


@lru_cache(maxsize=4096)
def _parsed(text: str) -> nodes.Template | None:
    from jinja2 import TemplateSyntaxError

    try:
        return _environment().parse(text)
    except TemplateSyntaxError:
        return None
