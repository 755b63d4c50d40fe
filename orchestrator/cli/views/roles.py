"""The catalogue of roles, and one role explained."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from orchestrator.cli.views.words import Look, table, wrapped
from orchestrator.model import Catalog, Contract, Json, Option, Requirement, Wire

__all__ = ["removal_text", "role_text", "roles_text", "rollout_text"]


def roles_text(catalog: Catalog, look: Look) -> str:
    """Return one line per role: what it provides and requires, and where it runs."""
    if not catalog:
        return "No roles found.\n"
    rows = [
        (
            role.role,
            " ".join(role.provides) or ".",
            " ".join(need.capability for need in role.requires) or ".",
            " ".join(role.platforms) or "any",
            _shortened(role.description, 60),
        )
        for _, role in sorted(catalog.items())
    ]
    lines = table(("role", "provides", "requires", "platforms", "description"), rows, look)
    return "\n".join([*lines, "", "One in full: halligan roles show ROLE", ""])


def _shortened(text: str, width: int) -> str:
    first = text.strip().partition("\n")[0]
    return first if len(first) <= width else f"{first[: width - 3].rstrip()}..."


def role_text(role: Contract, look: Look) -> str:
    """Return everything that the contract and the argument specs say of a role."""
    lines = [look.head(role.role), *wrapped(role.description or "No description.", look, first="  ")]
    facts = [
        ("provides", ", ".join(role.provides)),
        ("requires", "; ".join(_requirement(need) for need in role.requires)),
        ("after", ", ".join(role.after)),
        (
            "placed",
            f"{role.cardinality.count} per {role.cardinality.per}" + (", odd" if role.cardinality.quorum else ""),
        ),
        ("platforms", ", ".join(role.platforms) or "any"),
        ("facts", ", ".join(role.facts)),
        ("rollout", rollout_text(role)),
        ("removal", removal_text(role)),
        ("executor", role.executor or (f"ansible, for {role.controller}" if role.controller else "")),
        ("files", role.path),
    ]
    lines += [f"  {look.dim(name.ljust(10))} {text}" for name, text in facts if text]
    sections = [lines, _inputs(role, look), _outputs(role, look), _checks(role, look)]
    return "\n\n".join("\n".join(section) for section in sections if section) + "\n"


def _requirement(need: Requirement) -> str:
    return f"{need.capability} ({need.count} within the {need.scope})"


def rollout_text(role: Contract) -> str:
    if role.rollout is None:
        return ""
    stop = f", stops after {role.rollout.stop_after} failed" if role.rollout.stop_after else ""
    return f"{role.rollout.first} first, then {role.rollout.then} at a time{stop}"


def removal_text(role: Contract) -> str:
    if not role.removable:
        return "no tasks/remove.yml: only forgotten"
    return f"erases: {role.destroys}" if role.destroys else "runs tasks/remove.yml, erases nothing"


def _inputs(role: Contract, look: Look) -> list[str]:
    if not role.options:
        return []
    lines = [look.head("Inputs")]
    for option, depth in _options(role.options, 0):
        pad = "  " * (depth + 1)
        lines.append(f"{pad}{option.name}  {look.dim(_option(option, role.inputs if not depth else {}))}")
        if option.description:
            lines += wrapped(option.description.strip(), look, first=f"{pad}    ")
    return lines


def _options(options: Mapping[str, Option], depth: int) -> Iterator[tuple[Option, int]]:
    for _, option in sorted(options.items()):
        yield option, depth
        yield from _options(option.options, depth + 1)


def _option(option: Option, wires: Mapping[str, Wire]) -> str:
    words = [f"list of {option.elements}" if option.type == "list" and option.elements else option.type]
    if option.secret:
        words.append("secret")
    if option.choices:
        words.append(f"one of {_values(option.choices)}")
    wire = wires.get(option.name)
    if wire:
        words.append(f"from {_wire(wire)} unless the site sets it")
    elif option.required:
        words.append("required")
    elif option.default is not None and not option.secret:
        words.append(f"default {option.default!r}")
    return ", ".join(words)


def _wire(wire: Wire) -> str:
    if wire.site:
        return f"the site's {wire.site}"
    return f"{'every' if wire.collect == 'list' else 'a'} {wire.capability} provider's {wire.output}"


def _values(values: Iterable[Json]) -> str:
    return ", ".join(str(value) for value in values)


def _outputs(role: Contract, look: Look) -> list[str]:
    if not role.outputs:
        return []
    lines = [look.head("Outputs")]
    for name, output in sorted(role.outputs.items()):
        source = "secret, as a reference" if output.secret else output.type
        lines.append(f"  {name}  {look.dim(source)}")
        if output.description:
            lines += wrapped(output.description.strip(), look, first="      ")
    return lines


def _checks(role: Contract, look: Look) -> list[str]:
    if not role.checks:
        return []
    lines = [look.head("Checks before anything runs")]
    for check in role.checks:
        lines += wrapped(" ".join(check.that.split()), look, first="  ")
        lines += wrapped(f"else: {check.message}", look, first="      ")
    return lines
