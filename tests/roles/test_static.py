"""What can be said about every role without a machine: its files agree with each other."""

from __future__ import annotations

import re
from fnmatch import fnmatch
from pathlib import Path

import pytest
import yaml

from orchestrator import catalog, files

REPO = Path(__file__).parents[2]
ROLES = sorted(path for path in REPO.glob("roles/*") if path.is_dir())
SECRET_NAME = re.compile(r"(password|secret|cookie|token|private_key)s?$")

pytestmark = pytest.mark.parametrize("role", ROLES, ids=[role.name for role in ROLES])


def load(role: Path, name: str):
    path = role / name
    return (yaml.safe_load(path.read_text()) or {}) if path.exists() else {}


def options_of(role: Path):
    return load(role, "meta/argument_specs.yml")["argument_specs"]["main"].get("options", {})


def test_has_the_files_of_a_role(role):
    """A role has its tasks, its three meta files and an explanation."""
    wanted = ("tasks/main.yml", "meta/main.yml", "meta/contract.yml", "meta/argument_specs.yml", "README.md")
    assert [name for name in wanted if not (role / name).is_file()] == []


def test_is_read_by_the_catalogue(role):
    """Halligan itself finds nothing to object to, in this role or between it and the others."""
    assert role.name in catalog.read(files.read_roles([REPO / "roles"]))


def test_hides_no_dependency_from_the_graph(role):
    """Dependencies stand in the contract; Ansible would run those of meta/main.yml unseen."""
    assert load(role, "meta/main.yml")["dependencies"] == []


def test_defaults_are_those_of_the_specification(role):
    """The plan shows the defaults of argument_specs.yml; the run takes those of defaults/main.yml."""
    specified = {name: option["default"] for name, option in options_of(role).items() if "default" in option}
    assert load(role, "defaults/main.yml") == specified


def test_variables_carry_the_name_of_the_role(role):
    """Variables of all roles live in one space: options are role_x, private ones __role_x."""
    strangers = [name for name in options_of(role) if not name.startswith(f"{role.name}_")]
    for folder in ("defaults", "vars"):
        strangers += [name for name in load(role, f"{folder}/main.yml") if not is_own(name, role)]
    strangers += [name for name in registered(role) if not name.startswith(f"__{role.name}_")]
    assert strangers == []


def test_options_are_explained(role):
    """Every option and every output stands in the README and has a description."""
    said = re.findall(r"`([a-z0-9_*]+)`", (role / "README.md").read_text())
    names = (*options_of(role), *load(role, "meta/contract.yml").get("outputs", {}))
    assert [name for name in names if not any(is_said(name, words) for words in said)] == []
    assert [name for name, option in options_of(role).items() if not option.get("description")] == []


def test_secrets_are_marked(role):
    """An option that is called like a secret is one."""
    bare = [name for name, o in options_of(role).items() if SECRET_NAME.search(name) and not o.get("no_log")]
    assert bare == []


def test_removal_is_declared_where_it_exists(role):
    """A role that can be removed says what that destroys, and one that says so can be removed."""
    assert ("remove" in load(role, "meta/contract.yml")) == (role / "tasks/remove.yml").is_file()


def is_said(name: str, words: str) -> bool:
    """A row of a table may say `role_host`, `_port` or `role_other_*`."""
    return fnmatch(name, f"*{words}" if words.startswith("_") else words)


def is_own(name: str, role: Path) -> bool:
    return name.startswith((f"{role.name}_", f"__{role.name}_"))


def registered(role: Path) -> set[str]:
    """Names that tasks give to results and facts."""
    found = set()
    for path in role.glob("tasks/**/*.yml"):
        found |= set(re.findall(r"^\s+register: (\S+)", path.read_text(), re.MULTILINE))
    return found
