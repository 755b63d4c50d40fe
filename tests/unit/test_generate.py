"""Generated sites: valid at any size, and the one in inventories/ is what the generator makes."""

from __future__ import annotations

from pathlib import Path

import jsonschema
import pytest

from orchestrator import catalog, files, generate, spec, topology, yaml
from orchestrator.lifecycle import STAGES
from orchestrator.vault import Vault

PROJECT = Path(__file__).parents[2]
DEMO = PROJECT / "inventories" / "demo-mixed-1000"


def write(folder, texts):
    for path, text in texts.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    return folder


def read(folder):
    return spec.read(files.read_site(folder), Vault(folder, environ={}))


def test_the_demo_site_is_what_the_generator_makes():
    texts = generate.site()
    assert {path: (DEMO / path).read_text() for path in texts} == texts


def test_the_demo_site_has_its_thousand_nodes():
    found = read(DEMO)
    count = {}
    for node in found.nodes.values():
        kind = node.name.partition("-")[0]
        count[kind] = count.get(kind, 0) + 1
    assert count == {"ctl": 3, "net": 2, "kvm": 900, "hv": 95}
    assert found.problems == ()
    assert found.nodes["hv-01"].platform == "windows-2022"
    assert found.nodes["hv-01"].connection.transport == "psrp"
    assert found.nodes["kvm-900"].address == "10.66.3.132"


def test_the_demo_site_places_every_role_with_all_that_it_needs():
    contracts = catalog.read(files.read_roles([PROJECT / "roles"]))
    resolved = topology.resolve(read(DEMO), contracts)
    placed = {placement.role for placement in resolved.placements.values()}
    assert placed == {*generate.ROLES, *STAGES}
    assert len(resolved.placements) == 905 * 3 + 3 + 6 + 900 * 5


@pytest.mark.parametrize(
    "sizes",
    [
        {"controllers": 1, "network": 0, "kvm": 0, "hyperv": 0},
        {"controllers": 0, "network": 0, "kvm": 1, "hyperv": 1},
        {"controllers": 0, "network": 0, "kvm": 0, "hyperv": 0},
        {"controllers": 2, "network": 1, "kvm": 10, "hyperv": 3},
        {"controllers": 5, "network": 10, "kvm": 70_000, "hyperv": 20_000},
    ],
)
def test_a_site_of_any_size_is_valid(tmp_path, sizes):
    folder = write(tmp_path / "made", generate.site(**sizes))
    assert len(read(folder).nodes) == sum(sizes.values())
    validator = jsonschema.Draft202012Validator(spec.json_schema())
    validator.validate(yaml.load((folder / "cluster.yml").read_bytes(), "cluster.yml"))


def test_only_the_given_roles_are_placed(tmp_path):
    found = read(write(tmp_path / "made", generate.site(kvm=2, hyperv=0, roles=("base", "smoke"))))
    assert {role for group in found.groups.values() for role in group.roles} == {"base", "smoke"}
    assert found.groups["all"].file_vars == {}
