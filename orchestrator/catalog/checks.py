"""The `checks` of a contract -> Check; what is wrong with their expressions, found before any site is looked at."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from orchestrator import expressions
from orchestrator.catalog.schema import CheckModel
from orchestrator.errors import closest
from orchestrator.expressions import Call
from orchestrator.model import MAGIC, Catalog, Check, Contract, Json, Option
from orchestrator.yaml import Findings, Path, locate_all

__all__ = ["SITE", "check_calls", "names_of", "read"]

SITE = ("networks", "nodes", "nics")
"""What an expression knows beside the role's options and variables: the spec's networks and nodes, the host's ports."""


def read(
    findings: Findings, models: Sequence[CheckModel], options: Mapping[str, Option], own: Mapping[str, Json]
) -> tuple[Check, ...]:
    """Return the checks; notes expressions that are not valid, unknown names and options."""
    if not models:
        return ()
    document = findings.document
    paths: list[Path] = [("checks", index) for index in range(len(models))]
    places = locate_all(document.text, document.file, paths)
    known = {*options, *own, *MAGIC, *SITE, *expressions.FUNCTIONS}
    for path, model in zip(paths, models, strict=True):
        _check_text(findings, (*path, "that"), model.that, known, template=False)
        _check_text(findings, (*path, "message"), model.message, known, template=True)
        if model.option is not None and model.option not in options:
            summary = f'the check is about "{model.option}", which is no option of the role.'
            findings.error("catalog.unknown-option", (*path, "option"), summary + closest(model.option, options))
    return tuple(
        Check(that=model.that, message=model.message, option=model.option or "", hint=model.hint, where=places[path])
        for path, model in zip(paths, models, strict=True)
    )


def _check_text(findings: Findings, path: Path, text: str, known: Collection[str], *, template: bool) -> None:
    try:
        mentioned = expressions.template_names(text) if template else expressions.names(text)
    except ValueError as error:
        what = "message" if template else "expression"
        findings.error("catalog.check", path, f"the {what} of the check is not valid: {error}", hint=_HINT)
        return
    for name in sorted(mentioned - set(known)):
        summary = f'the check mentions "{name}", which is neither an option nor a variable of the role.'
        findings.error("catalog.check", path, summary + closest(name, known), hint=_HINT)
    for call in expressions.calls(text, template=template):
        wanted = 1 if call.function == "placed" else 2
        if not call.literal or len(call.arguments) != wanted:
            shape = f"{call.function}('capability'{', ' + repr('output') if wanted == 2 else ''})"
            findings.error("catalog.check", path, f"{call.function} is called as {shape}, each in quotes")


_HINT = "docs/contracts.md lists what an expression can use"


def check_calls(findings: Findings, checks: Sequence[Check], catalog: Catalog) -> None:
    """Note outputs that no provider of their capability gives. A capability that no role provides is nowhere placed."""
    for index, check in enumerate(checks):
        for key, text in (("that", check.that), ("message", check.message)):
            try:
                called = expressions.calls(text, template=key == "message")
            except ValueError:  # noted already
                continue
            for call in called:
                _check_call(findings, ("checks", index, key), call, catalog)


def _check_call(findings: Findings, path: Path, call: Call, catalog: Catalog) -> None:
    if len(call.arguments) != 2:
        return
    capability, output = call.arguments
    given = [names_of(contract) for contract in catalog.values() if capability in contract.provides]
    if given and not any(output in names for names in given):
        every = sorted({name for names in given for name in names})
        findings.error(
            "catalog.unknown-output",
            path,
            f'the check asks for the output "{output}" of {capability}, which none of its providers gives.'
            + closest(output, every),
            hint=f"there are: {', '.join(every) or 'none'}",
        )


def names_of(contract: Contract) -> Mapping[str, str]:
    """Return the names that a contract's outputs answer to, each with the output: in full, and without the role's."""
    short = {name.removeprefix(f"{contract.role}_"): name for name in contract.outputs}
    return {**short, **{name: name for name in contract.outputs}}
