"""The files of a site -> Spec, or all problems of the site at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from orchestrator import yaml
from orchestrator.errors import Location, Problem, ProblemsError
from orchestrator.fingerprint import canonical, sha256
from orchestrator.model import Group, Json, Node, Profile, Source, Spec, Value
from orchestrator.spec import metal, nodes, ranges
from orchestrator.spec.addresses import Networks, networks
from orchestrator.spec.connections import absolute, connect
from orchestrator.spec.groups import ALL, Order, check, order
from orchestrator.spec.policies import policy
from orchestrator.spec.references import Guesses, References
from orchestrator.spec.schema import VERSION, ClusterModel, GroupModel
from orchestrator.spec.secrets import Sealer
from orchestrator.spec.source import Decrypt, SiteFiles, SourceFile
from orchestrator.yaml import Document, Findings, Path
from orchestrator.yaml.check import parse, shown

__all__ = ["read"]

_DEFAULT_PLATFORM = "debian-12"
_NOTHING: Mapping[str, Value] = {}


def read(files: SiteFiles, secrets: Decrypt) -> Spec:
    """Return what a site should be; its `problems` are warnings. Raises ProblemsError with every error there is."""
    sealer = Sealer(secrets)
    problems = list(files.problems)
    group_vars = {name: _file_vars(sealer, sources, problems) for name, sources in files.group_vars.items()}
    host_vars = {name: _file_vars(sealer, sources, problems) for name, sources in files.host_vars.items()}
    spec = None
    try:
        findings = Findings(_document(files.cluster))
    except ProblemsError as error:
        problems.extend(error.problems)
    else:
        reader = _Reader(files, findings, sealer, group_vars, host_vars)
        spec = reader.spec()
        problems += [*findings.problems(), *reader.warnings]
    problems.extend(sealer.problems())
    if spec is None or any(problem.severity == "error" for problem in problems):
        raise ProblemsError(problems)
    return replace(spec, digest=reader.digest(spec), problems=ProblemsError(problems).problems)


def _file_vars(sealer: Sealer, sources: Iterable[SourceFile], problems: list[Problem]) -> dict[str, Value]:
    """Return what the vars files of one group or node set; later files win."""
    found: dict[str, Value] = {}
    for source in sources:
        try:
            found.update(sealer.file(source))
        except ProblemsError as error:
            problems.extend(error.problems)
    return found


def _document(cluster: SourceFile) -> Document:
    """Return cluster.yml as a mapping of the version that we read. Raises ProblemsError."""
    document = yaml.read(cluster.text, cluster.shown)
    data, summary, hint = document.data, "", ""
    if not isinstance(data, dict):
        summary, hint = f"the file must be a mapping (key: value), not {shown(data)}", f"it begins with spec: {VERSION}"
    elif "spec" not in data:
        summary, hint = 'the file needs the key "spec", the version of its format', f"add spec: {VERSION}"
    elif data["spec"] != VERSION or isinstance(data["spec"], bool):
        summary = f"the file has the format version {shown(data['spec'])}; this Halligan reads version {VERSION}"
        hint = "a newer file needs a newer Halligan"
    if summary:
        where = document.places.get(("spec",), Location(file=cluster.shown, line=1, column=1))
        raise ProblemsError([Problem(code="spec.version", summary=summary, where=where, hint=hint)])
    return document


class _Reader:
    """Reads one site: a flat sequence of steps over its sections, all noting into the same findings."""

    def __init__(
        self,
        files: SiteFiles,
        findings: Findings,
        sealer: Sealer,
        group_vars: Mapping[str, Mapping[str, Value]],
        host_vars: Mapping[str, Mapping[str, Value]],
    ) -> None:
        self._files = files
        self._findings = findings
        self._document = findings.document
        self._sealer = sealer
        self._group_vars = group_vars
        self._host_vars = host_vars
        self._host_sources = {name: self._sources((), {}, sources) for name, sources in files.host_vars.items()}
        self._entries: list[nodes.Entry] = []
        self.warnings: list[Problem] = []

    def spec(self) -> Spec | None:
        """Return the spec as far as it could be read; None when nothing could."""
        findings = self._findings
        model, dropped = parse(ClusterModel, findings, "spec")
        if model is None:
            return None
        groups = {name: group or GroupModel() for name, group in model.groups.items()}
        groups.setdefault(ALL, GroupModel())
        check(findings, groups, self._declared("groups"))
        nets = networks(findings, model.networks, complete=not any(path[0] == "networks" for path in dropped))
        entries = self._entries = nodes.entries(findings, model.nodes)
        self._check_references(model, groups, entries)
        group_values = {name: self._group(name, group) for name, group in groups.items()}
        node_values = self._nodes(model, groups, entries, nets)
        self._check_var_files(group_values, node_values)
        self._check_names(group_values, node_values)
        profiles = {
            name: Profile(
                name=name,
                image=profile.image,
                firmware=profile.firmware,
                root_disk=profile.root_disk,
                expect=profile.expect,
                interfaces=profile.interfaces,
                user_data=profile.user_data,
            )
            for name, profile in model.profiles.items()
        }
        metal.check_rules(findings, model)
        metal.check_entries(findings, entries, profiles)
        boot = metal.boot(findings, model.boot, nets.values)
        if not any(path[0] == "boot" for path in dropped):
            metal.check_site(findings, boot, profiles, node_values)
        return Spec(
            site=self._files.site,
            networks=nets.values,
            profiles=profiles,
            boot=boot,
            groups=group_values,
            nodes=node_values,
            policy=policy(model.policy, self._document),
            source=Source(file=self._document.file, text=self._document.text),
        )

    def digest(self, spec: Spec) -> str:
        """Return a digest of what the files mean: comments, order and re-encryption do not change it."""
        data = self._document.data
        if self._document.vaulted:
            groups = {
                name: {**(group or {}), "vars": spec.groups[name].vars}
                for name, group in data.get("groups", {}).items()
            }
            sealed = {entry.key: spec.nodes[entry.names[0]].vars for entry in self._entries}
            hosts = {key: {**(node or {}), "vars": sealed[key]} for key, node in data.get("nodes", {}).items()}
            data = {**data, "groups": groups, "nodes": hosts}
        meaning = {"site": spec.site, "cluster": data, "group_vars": self._group_vars, "host_vars": self._host_vars}
        return sha256(canonical(meaning))

    # --- sections -------------------------------------------------------------------------------------------------

    def _group(self, name: str, model: GroupModel) -> Group:
        return Group(
            name=name,
            roles=tuple(model.roles),
            children=tuple(model.children),
            vars=self._vars(model.vars, f"groups/{name}/vars/"),
            file_vars=self._group_vars.get(name, _NOTHING),
            bindings={capability: tuple(names) for capability, names in model.bindings.items()},
            where=self._document.places.get(("groups", name)),
            sources=self._sources(("groups", name, "vars"), model.vars, self._files.group_vars.get(name, ())),
        )

    def _sources(self, path: Path, values: Mapping[str, Json], files: Iterable[SourceFile]) -> tuple[Source, ...]:
        """Return where the variables of a group or node were read from: cluster.yml, if it sets any, then the files."""
        document = self._document
        own = (Source(file=document.file, text=document.text, path=path),) if values else ()
        return (*own, *(Source(file=source.shown, text=source.text) for source in files))

    def _nodes(
        self,
        model: ClusterModel,
        groups: Mapping[str, GroupModel],
        entries: list[nodes.Entry],
        nets: Networks,
    ) -> dict[str, Node]:
        ordered = order({name: group.children for name, group in groups.items()})
        identities = nodes.Identities()
        found: dict[str, Node] = {}
        for entry in entries:
            own = nodes.own(self._findings, entry, nets)
            identities.claim(entry, own)
            shared = self._shared(model, groups, ordered, entry)
            for node in nodes.build(entry, own, shared, self._host_vars, self._host_sources):
                found.setdefault(node.name, node)
        identities.report(self._findings)
        return found

    def _shared(
        self,
        model: ClusterModel,
        groups: Mapping[str, GroupModel],
        ordered: Order,
        entry: nodes.Entry,
    ) -> nodes.Shared:
        names = ordered.of(entry.model.groups)
        models = [groups[name] for name in names]
        platforms = [group.platform for group in models if group.platform]
        return nodes.Shared(
            groups=names,
            platform=entry.model.platform or (platforms[-1] if platforms else _DEFAULT_PLATFORM),
            connection=connect(
                self._files,
                (model.connection, *(group.connection for group in models), entry.model.connection),
            ),
            vars=self._vars(entry.model.vars, f"nodes/{entry.key}/vars/"),
            sources=self._sources(("nodes", entry.key, "vars"), entry.model.vars, ()),
            bmc_ca=absolute(self._files, entry.model.bmc.ca) if entry.model.bmc and entry.model.bmc.ca else "",
        )

    def _vars(self, values: dict[str, Json], prefix: str) -> Mapping[str, Value]:
        if not values:
            return _NOTHING
        return self._sealer.variables(self._document, values, self._files.cluster.path, prefix)

    # --- references -----------------------------------------------------------------------------------------------

    def _declared(self, section: str) -> set[str]:
        """Return the names under a section, those of entries that are wrong included: they can be referred to."""
        names = self._document.data.get(section)
        return set(names) if isinstance(names, dict) else set()

    def _check_references(
        self,
        model: ClusterModel,
        groups: Mapping[str, GroupModel],
        entries: list[nodes.Entry],
    ) -> None:
        uses = {
            "group": References("group", {*self._declared("groups"), ALL}, "declare it under groups:"),
            "profile": References("profile", self._declared("profiles"), "declare it under profiles:"),
            "network": References("network", self._declared("networks"), "declare it under networks:"),
            "node": References("node", {name for entry in entries for name in entry.names} | self._declared("nodes")),
        }
        for name, group in groups.items():
            self._use_bindings(uses["node"], group.bindings, ("groups", name, "bindings"))
        for entry in entries:
            path = ("nodes", entry.key)
            for index, name in enumerate(entry.model.groups):
                uses["group"].use(name, (*path, "groups", index))
            for name in entry.model.addresses:
                uses["network"].use(name, (*path, "addresses", name))
            if entry.model.profile:
                uses["profile"].use(entry.model.profile, (*path, "profile"))
            self._use_bindings(uses["node"], entry.model.bindings, (*path, "bindings"))
        if model.boot:
            uses["network"].use(model.boot.network, ("boot", "network"))
        limits, executors = model.policy.limits, model.policy.executors
        for section, words, names in (
            ("limits", "groups", limits.groups),
            ("limits", "installs", limits.installs),
            ("executors", "groups", executors.groups),
        ):
            for name in names:
                uses["group"].use(name, ("policy", section, words, name))
        for references in uses.values():
            references.report(self._findings)

    def _use_bindings(self, references: References, bindings: Mapping[str, list[str]], path: Path) -> None:
        for capability, names in bindings.items():
            for index, name in enumerate(names):
                if ranges.is_range(name):
                    summary = f'a binding names single nodes, not a range such as "{name}"'
                    self._findings.error("spec.bad-value", (*path, capability, index), summary)
                else:
                    references.use(name, (*path, capability, index))

    def _check_var_files(self, groups: Mapping[str, Group], found: Mapping[str, Node]) -> None:
        for kind, folder, sources, known in (
            ("group", "group_vars", self._files.group_vars, groups),
            ("node", "host_vars", self._files.host_vars, found),
        ):
            guesses = Guesses(known)
            for name in sources:
                if name not in known and sources[name]:
                    self.warnings.append(
                        Problem(
                            code="spec.unused-vars",
                            summary=f'{folder}/ has variables for the {kind} "{name}", which does not exist.'
                            + guesses.closest(name),
                            where=Location(file=sources[name][0].shown),
                            severity="warning",
                        ),
                    )

    def _check_names(self, groups: Mapping[str, Group], found: Mapping[str, Node]) -> None:
        for name in groups:
            if name in found:
                self._findings.warning(
                    "spec.same-name",
                    ("groups", name),
                    f'"{name}" is the name of a group and of a node',
                    hint="rename one",
                )
