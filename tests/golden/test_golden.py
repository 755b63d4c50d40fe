"""Whole sites against the plans, pictures and inventories they must give, byte for byte.

A case is a folder of sites/: `cluster.yml`, `before/` with what was applied before it, if anything, and `machines.json`
with the bare metal that is known. What it must give is in expected/<case>/. HALLIGAN_GOLDEN=rewrite writes that anew;
read the diff.
"""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from support.sites import after_success

from orchestrator import catalog, files, inventory, plan, spec, topology
from orchestrator.cli.views.diagram import diagram
from orchestrator.cli.views.graph import dot, mermaid
from orchestrator.cli.views.svg import svg
from orchestrator.cli.views.text import plan_text
from orchestrator.errors import ProblemsError
from orchestrator.model import Snapshot
from orchestrator.store.codec import machine_from_json
from orchestrator.vault import Vault

HERE = Path(__file__).parent
CASES = sorted(folder.name for folder in (HERE / "sites").iterdir())
PRODUCED = {"database": {"database_host": "10.1.0.11"}, "service": {"service_url": "http://10.1.0.11:8080"}}


def load(folder):
    found = spec.read(files.read_site(folder), Vault(folder))
    return topology.resolve(found, catalog.read(files.read_roles([HERE / "roles"])))


def results(case):
    """Return every document of a case by file name."""
    folder = HERE / "sites" / case
    try:
        wanted = load(folder)
    except ProblemsError as error:
        return {"problems.txt": str(error).replace(f"{folder}/", "") + "\n"}
    before = folder / "before"
    snapshot = Snapshot()
    if before.exists():
        snapshot = after_success(plan.make(load(before), snapshot), outputs=PRODUCED)
    machines = folder / "machines.json"
    if machines.exists():
        found = [machine_from_json(item) for item in json.loads(machines.read_text())]
        snapshot = replace(snapshot, machines={state.id: state for state in found})
    made = plan.make(wanted, snapshot)
    summary = plan.summarize(made)
    picture = diagram(made, summary)
    site = inventory.site_inventory(wanted, lambda ref: f"secret {ref.key}")
    return {
        "plan.json": plan.dump(made).decode(),
        "plan.txt": plan_text(made, summary),
        "graph.dot": dot(picture),
        "graph.mmd": mermaid(picture),
        "graph.svg": svg(picture),
        "inventory.json": json.dumps(site, indent=1, sort_keys=True) + "\n",
    }


@pytest.mark.parametrize("case", CASES)
def test_a_site_gives_what_it_gave_before(case):
    """The documents of a site are those that somebody has read and agreed to."""
    expected = HERE / "expected" / case
    found = results(case)
    if os.environ.get("HALLIGAN_GOLDEN") == "rewrite":
        expected.mkdir(parents=True, exist_ok=True)
        for old in expected.iterdir():
            old.unlink()
        for name, text in found.items():
            (expected / name).write_text(text)
    assert sorted(found) == sorted(file.name for file in expected.iterdir())
    for name, text in found.items():
        assert text == (expected / name).read_text(), f"{case}/{name}"
