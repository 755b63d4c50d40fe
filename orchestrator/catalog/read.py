"""The files of the roles -> Catalog, or all problems of all roles at once."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from orchestrator import templates, yaml
from orchestrator.catalog import checks
from orchestrator.catalog.controller import needs
from orchestrator.catalog.schema import ContractModel, EntryPointModel, OptionModel, SpecsModel, WireModel
from orchestrator.catalog.source import RoleFile, RoleFiles, RoleSource
from orchestrator.catalog.values import check_value
from orchestrator.errors import Location, Problem, ProblemsError, closest
from orchestrator.fingerprint import sha256
from orchestrator.lifecycle import STAGES
from orchestrator.model import MAGIC, Cardinality, Catalog, Contract, Json, Option, Output, Requirement, Scope, Wire
from orchestrator.yaml import Document, Findings
from orchestrator.yaml.check import parse

__all__ = ["read"]

_ROLE_NAME = re.compile(r"[a-z][a-z0-9_]*")


def read(files: RoleFiles) -> Catalog:
    """Return the contracts of all Halligan roles by name. Raises ProblemsError with every error there is."""
    problems: list[Problem] = []
    readers = [_RoleReader(role, problems) for role in files.roles if role.contract is not None]
    found = {reader.role.name: contract for reader in readers if (contract := reader.contract()) is not None}
    for reader in readers:
        if reader.role.name in found:
            reader.check_wires(found)
            reader.check_calls(found)
        problems.extend(reader.problems())
    if problems:
        raise ProblemsError(problems)
    asked = {name: contract.executor for name, contract in found.items()}
    sources = {role.name: role for role in files.roles}
    for name, contract in found.items():
        controller, includes = needs(name, sources, asked)
        digest = contract.digest
        if includes:  # their files decide, too, what it does
            digest = sha256("\n".join([digest, *(sources[other].digest for other in includes)]))
        found[name] = replace(contract, controller=controller, includes=includes, digest=digest)
    return found


class _RoleReader:
    """Reads one role. Each of its files has findings of its own; `problems` returns them with places."""

    def __init__(self, role: RoleSource, problems: list[Problem]) -> None:
        self.role = role
        self._syntax = problems
        self._contract = self._findings(role.contract)
        self._specs = self._findings(role.specs)
        self._meta = self._findings(role.meta)
        self._defaults = self._findings(role.defaults)
        self._vars = self._findings(role.vars)
        self._model: ContractModel | None = None

    def _findings(self, file: RoleFile | None) -> Findings:
        """Return the findings of a file; its data is empty without a file, and None when it cannot be read."""
        if file is None:
            return Findings(Document(file=self.role.shown, text="", data={}))
        try:
            document = yaml.read(file.text, file.shown)
        except ProblemsError as error:
            self._syntax.extend(error.problems)
            return Findings(Document(file=file.shown, text="", data=None))
        if document.data is None:
            return Findings(replace(document, data={}))
        if isinstance(document.data, dict):
            return Findings(document)
        where = Location(file=file.shown, line=1, column=1)
        summary = "the file must be a mapping (key: value)"
        self._syntax.append(Problem(code="catalog.wrong-type", summary=summary, where=where))
        return Findings(Document(file=file.shown, text="", data=None))

    def problems(self) -> Iterator[Problem]:
        for findings in (self._contract, self._specs, self._meta, self._defaults, self._vars):
            yield from findings.problems()

    def contract(self) -> Contract | None:
        """Return the contract as far as it could be read; None when nothing could."""
        role = self.role
        if not _ROLE_NAME.fullmatch(role.name):
            summary = f'"{role.name}" is not a role name: small letters, digits and "_", a letter first'
            self._contract.error("catalog.role-name", (), summary)
        if role.name in STAGES:
            summary = f'"{role.name}" is a life-cycle step of bare metal: no role can be called like it'
            self._contract.error("catalog.role-name", (), summary, hint=f"also taken: {', '.join(STAGES)}")
        self._check_dependencies()
        entry = self._entry_point()
        options = self._options(entry) if entry else {}
        if self._contract.document.data is None:
            return None
        model, _ = parse(ContractModel, self._contract, "catalog")
        self._model = model
        if model is None:
            return None
        if entry is not None or role.specs is None:  # else every option would look unknown
            self._check_inputs(model, options)
            self._check_outputs(model, options)
        self._check_removal(model)
        summary = entry.short_description if entry else ""
        found = _contract(role, model, options, summary, self._references(options))
        own = {name: value for name, value in self._defined().items() if name not in options}
        found = replace(found, variables=own, checks=checks.read(self._contract, model.checks, options, own))
        outputs = {
            name: replace(output, depends=None if output.secret else self._depends(output.value, options))
            for name, output in found.outputs.items()
        }
        return replace(found, outputs=outputs)

    # --- argument specs and defaults ------------------------------------------------------------------------------

    def _entry_point(self) -> EntryPointModel | None:
        """Return the entry point `main`; None when there is none, or none that can be read."""
        findings = self._specs
        if self.role.specs is None or findings.document.data is None:
            return None
        model, _ = parse(SpecsModel, findings, "catalog")
        if model is None:
            return None
        if "main" in model.argument_specs:
            return model.argument_specs["main"]
        summary = f"{self.role.name} describes no entry point main.{closest('main', model.argument_specs)}"
        findings.error("catalog.no-main", ("argument_specs",), summary)
        return None

    def _options(self, entry: EntryPointModel) -> dict[str, Option]:
        """Return the options of an entry point, with the defaults that really apply."""
        path = ("argument_specs", "main", "options")
        options = {name: _option(name, option) for name, option in entry.options.items()}
        for name, option in options.items():
            self._check_option(option, (*path, name))
        return {name: self._with_default(option, (*path, name)) for name, option in options.items()}

    def _check_option(self, option: Option, path: yaml.Path) -> None:
        findings = self._specs
        if not option.name.isidentifier():
            findings.error("catalog.option-name", path, f'"{option.name}" is not a variable name')
        if option.elements and option.type != "list":
            findings.error(
                "catalog.elements", path, f"{option.name} has elements but is not a list, it is {option.type}"
            )
        if option.options and "dict" not in (option.type, option.elements):
            findings.error("catalog.options", path, f"{option.name} has options but is no mapping and no list of them")
        for problem in check_value(option, option.default):
            if option.default is not None:
                findings.error("catalog.bad-default", (*path, "default"), f"the default of {problem.summary}")
        for name, nested in option.options.items():
            self._check_option(nested, (*path, "options", name))

    def _with_default(self, option: Option, path: yaml.Path) -> Option:
        """Return an option with the default that applies: that of defaults/main.yml, which Ansible alone looks at."""
        defaults = self._defaults.document.data or {}
        if option.name not in defaults:
            if option.default is not None and self.role.defaults is not None and self._defaults.document.text:
                self._specs.error(
                    "catalog.default-missing",
                    (*path, "default"),
                    f"{option.name} has a default here but none in defaults/main.yml, where Ansible takes it from",
                    hint=f"add {option.name} to defaults/main.yml",
                )
            return option
        value = defaults[option.name]
        if option.required:
            summary = f"{option.name} is required, and a default makes that pointless"
            self._defaults.error("catalog.required-default", (option.name,), summary)
        if option.default is not None and option.default != value:
            self._specs.error(
                "catalog.default-differs",
                (*path, "default"),
                f"{option.name} has another default in defaults/main.yml",
                hint="write the same value in both; Ansible takes that of defaults/main.yml",
            )
        for problem in check_value(option, value):
            self._defaults.error("catalog.bad-default", (option.name,), f"the default of {problem.summary}")
        return replace(option, default=value)

    def _references(self, options: Mapping[str, Option]) -> frozenset[str]:
        """Return the variables that the role's defaults and vars mention and that it does not define."""
        found: set[str] = set()
        for findings in (self._defaults, self._vars):
            for name, value in (findings.document.data or {}).items():
                try:
                    found |= templates.undeclared(value)
                except ValueError as error:
                    findings.error("catalog.template", (name,), f"the template of {name} is not valid: {error}")
        return frozenset(found - self._defined().keys() - options.keys())

    def _defined(self) -> dict[str, Json]:
        """Return what the role's own files give to its variables; vars win over defaults, as in Ansible."""
        return {**(self._defaults.document.data or {}), **(self._vars.document.data or {})}

    def _depends(self, value: Json, options: Mapping[str, Option]) -> frozenset[str] | None:
        """Return the variables that decide an output, directly or not; None when something else does.

        What a task registers or a fact holds is known to nobody before the role ran.
        """
        defined = self._defined()
        found: set[str] = set()
        todo = list(templates.mentioned(value))
        while todo:
            name = todo.pop()
            if name in found:
                continue
            if name not in defined and name not in options and name not in MAGIC:
                return None
            found.add(name)
            todo.extend(templates.mentioned(defined.get(name)))
        return frozenset(found)

    # --- contract -------------------------------------------------------------------------------------------------

    def _check_dependencies(self) -> None:
        if (self._meta.document.data or {}).get("dependencies"):
            self._meta.error(
                "catalog.dependencies",
                ("dependencies",),
                f"{self.role.name} has Ansible dependencies, which the graph cannot see",
                hint="write dependencies: [], and requires: in meta/contract.yml",
            )

    def _check_inputs(self, model: ContractModel, options: Mapping[str, Option]) -> None:
        findings = self._contract
        needed = {requirement.capability for requirement in model.requires} | set(model.after)
        for name, wire in model.inputs.items():
            path = ("inputs", name)
            if name not in options:
                summary = f'the input "{name}" is no option of the role.{closest(name, options)}'
                findings.error("catalog.unknown-option", path, summary, hint="declare it in meta/argument_specs.yml")
            if fault := _wire_fault(wire):
                findings.error("catalog.wire", path, f'the input "{name}" {fault}')
            elif wire.from_ and wire.from_ not in needed:
                findings.error(
                    "catalog.wire",
                    (*path, "from"),
                    f'the input "{name}" comes from {wire.from_}, which the role does not require.'
                    + closest(wire.from_, needed),
                    hint="add it to requires:, so that it is there first",
                )

    def _check_outputs(self, model: ContractModel, options: Mapping[str, Option]) -> None:
        findings = self._contract
        for name, output in model.outputs.items():
            path = ("outputs", name)
            if not name.isidentifier():
                findings.error("catalog.output", path, f'the output "{name}" is not a variable name')
            if (output.value is None) == (output.secret is None):
                both = "both value and secret" if output.secret else "neither value nor secret"
                findings.error("catalog.output", path, f'the output "{name}" has {both}', hint="give one of the two")
            if output.secret is not None:
                self._check_secret(name, output.secret, options)
            try:
                templates.undeclared(output.value)
            except ValueError as error:
                summary = f'the template of the output "{name}" is not valid: {error}'
                findings.error("catalog.template", (*path, "value"), summary)

    def _check_secret(self, output: str, secret: str, options: Mapping[str, Option]) -> None:
        path = ("outputs", output, "secret")
        if secret not in options:
            secrets = [name for name, option in options.items() if option.secret]
            summary = (
                f'the output "{output}" names the option "{secret}", which does not exist.{closest(secret, secrets)}'
            )
            self._contract.error("catalog.unknown-option", path, summary)
        elif not options[secret].secret:
            summary = f'the output "{output}" names the option "{secret}" as a secret, but it is not one'
            hint = f"write no_log: true for {secret} in meta/argument_specs.yml"
            self._contract.error("catalog.not-secret", path, summary, hint=hint)

    def _check_removal(self, model: ContractModel) -> None:
        if model.remove is not None and not self.role.has_remove:
            self._contract.error(
                "catalog.no-remove-tasks",
                ("remove",),
                f"{self.role.name} says that it can be removed, but has no tasks/remove.yml",
                hint="write the tasks, or take remove: out",
            )

    def check_wires(self, catalog: Catalog) -> None:
        """Check the wires against the outputs of the roles that provide the capabilities."""
        assert self._model is not None
        options = catalog[self.role.name].options
        for name, wire in self._model.inputs.items():
            if not (wire.from_ and wire.output):
                continue
            for provider in _providers(catalog, wire.from_):
                self._check_wire(name, wire.output, provider, options)

    def check_calls(self, catalog: Catalog) -> None:
        """Check what the role's checks ask about capabilities against the roles that provide them."""
        checks.check_calls(self._contract, catalog[self.role.name].checks, catalog)

    def _check_wire(self, name: str, output: str, provider: Contract, options: Mapping[str, Option]) -> None:
        path = ("inputs", name, "output")
        if output not in provider.outputs:
            self._contract.error(
                "catalog.unknown-output",
                path,
                f'the input "{name}" wants the output "{output}", which {provider.role} does not give.'
                + closest(output, provider.outputs),
                hint=f"outputs of {provider.role}: {', '.join(sorted(provider.outputs)) or 'none'}",
            )
        elif provider.outputs[output].secret and name in options and not options[name].secret:
            self._contract.error(
                "catalog.not-secret",
                path,
                f'the input "{name}" takes a secret of {provider.role}, but is not one itself',
                hint=f"write no_log: true for {name} in meta/argument_specs.yml",
            )


def _providers(catalog: Catalog, capability: str) -> Iterable[Contract]:
    return (contract for contract in catalog.values() if capability in contract.provides)


def _wire_fault(wire: WireModel) -> str:
    if wire.site and (wire.from_ or wire.output):
        return "has both from and site; one value has one source"
    if not wire.site and not wire.from_:
        return "says neither from nor site"
    if wire.from_ and not wire.output:
        return "says from which capability, but not which output"
    return ""


def _option(name: str, model: OptionModel) -> Option:
    return Option(
        name=name,
        type=model.type,
        required=model.required,
        default=model.default,
        choices=tuple(model.choices or ()),
        elements=model.elements or "",
        options={key: _option(key, nested) for key, nested in model.options.items()},
        secret=model.no_log,
        description=_text(model.description),
    )


def _text(description: Json) -> str:
    return " ".join(map(str, description)) if isinstance(description, list) else str(description or "")


def _contract(
    role: RoleSource,
    model: ContractModel,
    options: Mapping[str, Option],
    summary: str,
    references: frozenset[str],
) -> Contract:
    assert role.contract is not None
    return Contract(
        role=role.name,
        description=summary,
        digest=role.digest,
        path=role.path,
        provides=tuple(model.provides),
        requires=tuple(
            Requirement(capability=one.capability, scope=Scope(one.scope), count=one.count) for one in model.requires
        ),
        after=tuple(model.after),
        inputs={
            name: Wire(
                capability=wire.from_ or "", output=wire.output or "", collect=wire.collect, site=wire.site or ""
            )
            for name, wire in model.inputs.items()
        },
        outputs={
            name: Output(
                name=name,
                type=one.type,
                description=one.description,
                value=one.value,
                secret=one.secret or "",
            )
            for name, one in model.outputs.items()
        },
        cardinality=Cardinality(
            per=Scope(model.cardinality.per), count=model.cardinality.count, quorum=model.cardinality.quorum
        ),
        platforms=tuple(model.platforms),
        facts=tuple(model.facts),
        rollout=model.rollout.value() if model.rollout else None,
        removable=role.has_remove,
        destroys=model.remove.destroys if model.remove else "",
        options=options,
        references=references,
        executor=model.executor or "",
        where=Location(file=role.contract.shown, line=1, column=1),
    )
