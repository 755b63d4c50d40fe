"""The catalogue as pages of documentation: an index by family of capabilities, and one page per role."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

from orchestrator.cli.views.roles import removal_text, rollout_text
from orchestrator.model import Catalog, Check, Contract, Json, Option, Output, Wire

__all__ = ["index_page", "role_page"]

_MADE = "<!-- Made by `make docs` from the roles' meta/ folders: change it there. -->"
_ABOUT_ALL = """\
By the family of what they provide. [contracts.md](contracts.md) says what the words mean.
`halligan roles show ROLE SITE` tells the same of a site's own roles.
"""
_ABOUT_CHECKS = "Before anything runs ([how](../contracts.md#checks-what-must-hold-before-anything-runs)).\n"
_OTHERS = "nothing that others require"
_LONGEST = 100  # characters of a default before it is left to the role's own files
_LINE = re.compile(r":\d+\b")


def index_page(catalog: Catalog) -> str:
    """Return the page that lists every role under the first word of the first capability that it provides."""
    families: dict[str, list[Contract]] = defaultdict(list)
    for _, role in sorted(catalog.items()):
        families[role.provides[0].partition(".")[0] if role.provides else _OTHERS].append(role)
    parts = [f"# The roles\n\n{_MADE}\n", _ABOUT_ALL]
    for family in sorted(families, key=lambda name: (name == _OTHERS, name)):
        rows = [
            (f"[{role.role}](roles/{role.role}.md)", role.description, _codes(role.provides), _requires(role))
            for role in families[family]
        ]
        parts += [f"## {family}\n", _table(("role", "what it is", "provides", "requires"), rows)]
    return "\n".join(parts)


def role_page(role: Contract, consumers: Sequence[str] = ()) -> str:
    """Return the page of a role; `consumers` are the roles that require what it provides."""
    parts = [
        f"# {role.role}\n\n{_MADE}\n",
        f"{role.description or 'No description.'}\n",
        f"More about it: [its README](../../roles/{role.role}/README.md). All roles: [roles.md](../roles.md).\n",
        _table(("", ""), [(name, text) for name, text in _facts(role, consumers) if text]),
    ]
    if role.options:
        parts += ["## Inputs\n", _table(("option", "type", "default", "meaning"), _inputs(role))]
    if role.outputs:
        outputs = [_output(output) for _, output in sorted(role.outputs.items())]
        parts += ["## Outputs\n", _table(("output", "type", "meaning"), outputs)]
    if role.checks:
        rows = [_check(check) for check in role.checks]
        parts += ["## Checks\n", _ABOUT_CHECKS, _table(("about", "must hold", "else"), rows)]
    return "\n".join(parts)


def _facts(role: Contract, consumers: Sequence[str]) -> Iterator[tuple[str, str]]:
    yield "provides", _codes(role.provides)
    yield "required by", ", ".join(f"[{name}]({name}.md)" for name in consumers)
    yield "requires", _requires(role)
    yield "comes after", _codes(role.after)
    odd = ", an odd number: works while the majority does" if role.cardinality.quorum else ""
    yield "how many", f"{role.cardinality.count} per {role.cardinality.per}{odd}"
    yield "platforms", ", ".join(role.platforms) or "any"
    yield "facts it gathers", ", ".join(role.facts)
    yield "roll-out", rollout_text(role)
    yield "removal", removal_text(role)
    pushed = f"ansible, from the controller ({_LINE.sub('', role.controller)})" if role.controller else "carry"
    yield "applied by", role.executor or pushed


def _requires(role: Contract) -> str:
    found = []
    for need in role.requires:
        where = {"site": "", "node": " on the same node"}.get(need.scope, " in the same group")
        number = "" if str(need.count) == "1.." else f" ({need.count})"
        found.append(f"`{need.capability}`{where}{number}")
    return ", ".join(found)


def _inputs(role: Contract) -> Iterator[tuple[str, ...]]:
    for name, option in _options(role.options):
        yield f"`{name}`", _type(option), _default(option, role.inputs.get(name)), option.description


def _options(options: Mapping[str, Option], around: str = "") -> Iterator[tuple[str, Option]]:
    for name, option in sorted(options.items()):
        inner = f"{around}{name}"
        yield inner, option
        yield from _options(option.options, f"{inner}[]." if option.type == "list" else f"{inner}.")


def _type(option: Option) -> str:
    words = f"list of {option.elements}" if option.type == "list" and option.elements else option.type
    return f"{words}: {_codes(map(_text, option.choices))}" if option.choices else words


def _default(option: Option, wire: Wire | None) -> str:
    if wire is not None:
        return _wire(wire)
    if option.required:
        return "needed, secret" if option.secret else "needed"
    if option.secret:
        return "secret"
    if option.default is None:
        return "none"
    text = _text(option.default)
    return f"`{text}`" if text and len(text) <= _LONGEST else "empty" if not text else "see its defaults"


def _wire(wire: Wire) -> str:
    if wire.site:
        return f"the site's {wire.site}"
    return f"`{wire.output}` of {'every' if wire.collect == 'list' else 'a'} `{wire.capability}`"


def _output(output: Output) -> tuple[str, str, str]:
    return f"`{output.name}`", "secret, as a reference" if output.secret else output.type, output.description


def _check(check: Check) -> tuple[str, str, str]:
    return f"`{check.option}`" if check.option else "", f"`{check.that}`", f"`{check.message}`"


def _text(value: Json) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _codes(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [_row(head), f"|{'---|' * len(head)}", *(_row(cells) for cells in rows)]
    return "\n".join([*lines, ""])


def _row(cells: Sequence[str]) -> str:
    """Return a line of a table; what is text stays text, whatever stands in it."""
    return f"| {' | '.join(' '.join(cell.split()).replace('|', chr(92) + '|') for cell in cells)} |"
