"""Why a role can be run by the controller alone: what its tasks, variables and templates use that no host has.

Where it is not certain that a host could run a task as the controller does, the controller runs it: the answer may cost
time, but is never wrong. A role that knows better says `executor: carry` in its contract.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import NamedTuple

from orchestrator import yaml
from orchestrator.catalog.source import RoleFile, RoleSource
from orchestrator.errors import ProblemsError
from orchestrator.model import CARRY, PUSH, Json
from orchestrator.templates import FILES, SETTLED, asks_controller, has_template, leads_out, may_ask, short_name, texts
from orchestrator.yaml import Document, Path

__all__ = ["Needs", "needs"]

_KEYS = ("delegate_to", "local_action", "run_once", "throttle", "connection")
_MODULES = {"synchronize", "fetch", "add_host", "group_by", "pause", "reboot", "wait_for_connection"}
_SENDERS = {"copy": "src", "template": "src", "unarchive": "src", "script": "cmd"}  # what they send from the controller
_READERS = {"include_vars": "file", "include_tasks": "file", "import_tasks": "file"}
_ROLES = ("include_role", "import_role")
_ACTIONS = ("action", "local_action")  # keys whose value begins with the module
_TELLING = {*_MODULES, *_SENDERS, *_READERS, *_ROLES, *_ACTIONS, "meta"}
_BLOCKS = ("block", "rescue", "always")
_CONDITIONS = {"when", "failed_when", "changed_when", "until", "that", "var"}  # expressions without braces
_FREE_FORM = re.compile(r"(?:^|\s)(\w+)=(\"[^\"]*\"|'[^']*'|\S+)")


class Needs(NamedTuple):
    """Why a role needs the controller (empty: it does not), and which other roles it includes."""

    controller: str = ""
    includes: tuple[str, ...] = ()


def needs(role: str, sources: Mapping[str, RoleSource], asked: Mapping[str, str]) -> Needs:
    """Return what a role needs, together with all that it includes; `asked` is what contracts ask for, by role."""
    found: dict[str, None] = {}
    controller, todo = analysed(sources[role])
    while todo:
        name, *rest = todo
        todo = tuple(rest)
        if name == role or name in found:
            continue
        if name not in sources:
            controller = controller or f"it includes the role {name}, which is not among the site's"
            continue
        found[name] = None
        own, includes = analysed(sources[name])
        if asked.get(name) == PUSH:
            own = "what its contract asks for"
        if own and asked.get(name) != CARRY:
            controller = controller or f"it includes the role {name}: {own}"
        todo += includes
    return Needs(controller, tuple(sorted(found)))


def analysed(role: RoleSource) -> Needs:
    """Return what a role's own files need."""
    texts = tuple(sorted(role.texts.items(), key=lambda item: (_ORDER.get(item[0].partition("/")[0], 9), item[0])))
    return _analysed(texts, role.meta, role.encrypted)


_ORDER = {"tasks": 0, "handlers": 1, "vars": 2, "defaults": 3}


@lru_cache(maxsize=512)
def _analysed(texts: tuple[tuple[str, bytes], ...], meta: RoleFile | None, encrypted: str) -> Needs:
    """Return the same for a role's texts; cached, because one process reads the same roles again and again."""
    reasons = [f"{encrypted} is encrypted with Ansible Vault"] if encrypted else []
    includes: dict[str, None] = dict.fromkeys(_dependencies(meta))
    for name, content in texts:
        if name.startswith("templates/"):
            if asked := asks_controller(content.decode(errors="replace")):
                reasons.append(f"{asked.what} in {name}:{asked.line}")
            continue
        is_tasks = name.startswith(("tasks/", "handlers/"))
        if not is_tasks and b"!vault" not in content and not may_ask(content.decode(errors="replace")):
            continue
        try:
            document = yaml.read(content, name)
        except ProblemsError as error:
            reasons.append(f"{error.problems[0].where} cannot be read: {error.problems[0].summary}")
            continue
        tasks = list(_tasks(document.data, ())) if is_tasks else []
        reasons += _reasons(document, tasks)
        includes |= dict.fromkeys(_included(tasks))
    return Needs(next(iter(reasons), ""), tuple(includes))


def _reasons(document: Document, tasks: Iterable[tuple[Path, Mapping[str, Json]]]) -> list[str]:
    """Return why the tasks and expressions of a file need the controller, the first reason only."""
    if document.vaulted:
        line = document.text.count("\n", 0, document.text.index("!vault")) + 1
        return [f"a value encrypted with Ansible Vault in {document.file}:{line}"]
    for path, task in tasks:
        for key, what in _of_task(task):
            return [f"{what} in {_place(document, (*path, key))}"]
    for path, asked in _asking(document.data, ()):
        return [f"{asked} in {_place(document, path)}"]
    return []


def _place(document: Document, path: Path) -> str:
    where = document.where(path)
    return f"{where.file}:{where.line}"


# --- tasks --------------------------------------------------------------------------------------------------------


def _tasks(data: Json, path: Path) -> Iterator[tuple[Path, Mapping[str, Json]]]:
    """Yield every task of a list of tasks with its path, blocks and what is in them included."""
    for index, task in enumerate(data if isinstance(data, list) else ()):
        if isinstance(task, Mapping):
            yield (*path, index), task
            for key in _BLOCKS:
                yield from _tasks(task.get(key), (*path, index, key))


def _of_task(task: Mapping[str, Json]) -> Iterator[tuple[str, str]]:
    """Yield the keys of a task that need the controller, and what each is about."""
    for key in _KEYS:
        if key in task and task[key] not in (False, 0, "", None):
            yield key, key
    for key, value in task.items():
        if key.startswith("with_") and _looks_away(short_name(key.removeprefix("with_")), value):
            yield key, key
    for key, module, arguments in _modules(task):
        if what := _of_module(module, arguments, task.get("loop", task.get("with_items"))):
            yield key, what


def _looks_away(lookup: str, terms: Json) -> bool:
    if lookup in FILES or lookup == "first_found":
        # What is first found may be named by variables: they choose among the role's files.
        return any(leads_out(term) for term in texts(terms) if lookup in FILES or not has_template(term))
    return lookup not in SETTLED


def _modules(task: Mapping[str, Json]) -> Iterator[tuple[str, str, Mapping[str, Json]]]:
    """Yield the module of a task if it matters: its key, its short name, and its arguments (free form: "_")."""
    more = task.get("args")
    for key, value in task.items():
        name, arguments = short_name(key), value
        if name not in _TELLING and name.count(".") < 2:
            continue
        if name in _ACTIONS:
            if isinstance(value, Mapping):
                name, arguments = str(value.get("module", "")), value
            else:
                name, _, arguments = str(value).strip().partition(" ")
        if isinstance(arguments, str):
            free = {key: text.strip("\"'") for key, text in _FREE_FORM.findall(arguments)}
            arguments = {"_": arguments.strip(), **free}
        known = arguments if isinstance(arguments, Mapping) else {}
        yield key, short_name(name), {**known, **more} if isinstance(more, Mapping) else known


def _of_module(module: str, arguments: Mapping[str, Json], items: Json) -> str:
    if module in _MODULES or module.count(".") > 1:  # collections stay on the controller
        return module
    if module in _ROLES and has_template(_role(arguments)):
        return f"{module} of a computed name"
    if module == "meta" and arguments.get("_") == "refresh_inventory":
        return "refresh_inventory"
    if module in _SENDERS and not _true(arguments.get("remote_src")):
        free = str(arguments.get("_", "")).partition(" ")[0] if module == "script" else None
        source = arguments.get(_SENDERS[module], free)
        if isinstance(source, str) and leads_out(source, items):
            return f"{module} of a file that may be outside the role"
    if module in _READERS:
        sources = (arguments.get("file"), arguments.get("dir"), arguments.get("_"))
        # A variable in front chooses among the role's files, by the distribution for one.
        if any(leads_out(source) for source in sources if isinstance(source, str) and not source.startswith("{{")):
            return f"{module} of a file that may be outside the role"
    return ""


def _true(value: Json) -> bool:
    return str(value).lower() in ("true", "yes", "on", "1")


def _included(tasks: Iterable[tuple[Path, Mapping[str, Json]]]) -> Iterator[str]:
    for _, task in tasks:
        for _, module, arguments in _modules(task):
            if module in _ROLES and (name := _role(arguments)) and not has_template(name):
                yield name


def _role(arguments: Mapping[str, Json]) -> str:
    return str(arguments.get("name", arguments.get("role", "")))


def _dependencies(meta: RoleFile | None) -> Iterator[str]:
    """Yield the roles that meta/main.yml lets Ansible run first; Halligan's own roles have none."""
    try:
        data = yaml.load(meta.text, meta.shown) if meta else None
    except ProblemsError:
        return  # the reader of the catalogue has told
    listed = data.get("dependencies") if isinstance(data, Mapping) else None
    for item in listed if isinstance(listed, list) else ():
        yield _role(item) if isinstance(item, Mapping) else str(item)


# --- expressions --------------------------------------------------------------------------------------------------


def _asking(data: Json, path: Path, *, bare: bool = False) -> Iterator[tuple[Path, str]]:
    """Yield what expressions anywhere in a value ask the controller for, each with its path."""
    match data:
        case str():
            if asked := asks_controller(data, bare=bare):
                yield path, asked.what
        case Mapping():
            for key, item in data.items():
                yield from _asking(item, (*path, key), bare=key in _CONDITIONS)
        case list():
            for index, item in enumerate(data):
                yield from _asking(item, (*path, index), bare=bare)
