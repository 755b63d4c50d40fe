"""Use cases of bare metal over a real store: what is shown of machines, what rules say, and what operators may ask."""

from __future__ import annotations

import hashlib
import json

import pytest
from support.machines import FACTS

from orchestrator import lifecycle
from orchestrator.errors import HalliganError, ProblemsError
from orchestrator.lifecycle import Signal
from orchestrator.model import Identity, Phase
from orchestrator.service import open_site
from orchestrator.store import Store, kinds

SITE = """\
spec: 1
networks: {mgmt: {cidr: 10.7.0.0/24}}
boot: {network: mgmt, range: 10.7.0.100-10.7.0.199}
connection: {private_key: key}
profiles: {kvm: {image: debian-12}}
nodes:
  named: {profile: kvm, address: 10.7.0.1, mac: "52:54:00:00:00:01"}
  big: {profile: kvm, address: 10.7.0.2, match: {memory_gib: ">= 64"}}
  any: {profile: kvm, address: 10.7.0.3, match: {memory_gib: "> 0"}}
  running: {address: 10.7.0.4}
"""


@pytest.fixture
def site(tmp_path):
    folder = tmp_path / "room"
    folder.mkdir()
    (folder / "cluster.yml").write_text(SITE)
    return open_site(str(folder))


@pytest.fixture
def store(site):
    site.state_dir.mkdir(mode=0o700)
    with Store.open(site.store_place) as opened:
        yield opened


def discovered(store, number, memory_gib=4, *signals, **changes):
    """Bring a machine through discovery, and on through further signals."""
    key, mac = f"m-{number}", f"52:54:00:00:00:{number:02x}"
    document = json.loads(json.dumps(FACTS))
    inventory = document["inventory"]
    inventory["memory"] = {"total": memory_gib << 30, "physical_mb": memory_gib << 10}
    inventory["interfaces"] = [{**inventory["interfaces"][0], "mac_address": mac}]
    document["agent"] = {"version": "1", "level": "full"}
    text = json.dumps(document).encode()
    digest = hashlib.sha256(text).hexdigest()
    identity = Identity(uuid=f"u-{number}", macs=(mac,))
    store.append([kinds.machine_boot("", at=1.0, mac=mac, what="dhcp", detail="DHCPACK 10.7.0.100")])
    for at, signal in enumerate((Signal.BOOT, Signal.ENROL, Signal.FACTS, *signals), 2):
        told = {"identity": identity}
        if signal is Signal.FACTS:
            told |= {"facts": digest, "level": "full"}
        if signal is Signal.CLAIM:
            told |= changes
        made = lifecycle.move(store.machine(key), signal, machine=key, **told)
        store.append([kinds.machine_moved(made, at=float(at), by=mac)], facts={digest: text})
    return key


def test_every_node_is_shown_with_its_machine_and_then_what_nobody_has(site, store):
    discovered(store, 1)
    discovered(store, 9)
    views = site.machines.overview()
    shown = [(view.node.name if view.node else None, view.machine.id if view.machine else None) for view in views]
    assert shown == [("named", "m-1"), ("big", None), ("any", None), (None, "m-9")]
    assert views[0].todo == lifecycle.STAGES


def test_a_node_is_shown_with_its_hardware(site, store):
    discovered(store, 1, 32)
    view, facts = site.machines.show("named")
    assert view.machine.phase is Phase.DISCOVERED
    assert facts.memory_bytes == 32 << 30
    assert site.machines.document(view.machine)["agent"]["level"] == "full"
    with pytest.raises(HalliganError, match=r'no bare-metal node or machine name\. Did you mean "named"'):
        site.machines.show("name")
    with pytest.raises(HalliganError, match="no bare-metal node"):
        site.machines.show("running")


def test_checks_of_contracts_see_the_ports_that_were_discovered(site, store):
    """Those of nodes whose hardware nobody knows are not asked for."""
    meta = site.path / "roles" / "net" / "meta"
    meta.mkdir(parents=True)
    options = "{net_port: {type: str, required: true, description: A port.}}"
    (meta / "argument_specs.yml").write_text(f"argument_specs: {{main: {{options: {options}}}}}\n")
    (meta / "contract.yml").write_text(
        "contract: 1\nchecks:\n- {option: net_port, that: net_port in nics, "
        "message: \"no {{ net_port }} among {{ nics | join(', ') }}\"}\n"
    )
    (site.path / "cluster.yml").write_text(
        SITE.replace(
            "{image: debian-12}", "{image: debian-12, interfaces: {bond0: {members: [eno1], networks: [mgmt]}}}"
        )
        + "groups: {all: {roles: [net], vars: {net_port: eno7}}}\n"
    )
    opened = open_site(str(site.path), roles=(str(site.path / "roles"),))
    assert opened.load()
    discovered(store, 1)
    with pytest.raises(ProblemsError) as caught:
        opened.load()
    (problem,) = caught.value.problems
    assert "net on named: no eno7 among" in problem.summary


def test_the_trace_goes_from_the_first_packet_to_the_claim(site, store):
    discovered(store, 1, 4, Signal.CLAIM, node="named")
    lines = [(line.what, line.detail) for line in site.machines.trace("named")]
    assert lines[0] == ("dhcp", "DHCPACK 10.7.0.100")
    assert lines[1][1].startswith("unknown -> enrolled (boot, by 52:54:00:00:00:01)")
    assert "discovered -> claimed (claim" in lines[-1][1]


def test_rules_are_explained_and_decide_the_plan(site, store):
    for number, memory_gib in ((5, 4), (6, 128)):
        discovered(store, number, memory_gib)
    found = site.machines.match()
    assert found.assignment.chosen == {"any": "m-5", "big": "m-6"}
    assert not found.judgements["big", "m-5"].matches
    assert found.judgements["big", "m-6"].matches
    made = site.plan()
    machines = {step.node: step.inputs.get("machine") for step in made.steps if step.role == "match"}
    assert machines == {"named": None, "any": "m-5", "big": "m-6"}
    assert made.complete


def test_a_rule_without_a_machine_leaves_the_plan_incomplete(site, store):
    discovered(store, 5, 4)
    made = site.plan()
    assert made.undiscovered == ("big",)
    assert site.machines.match().assignment.unmatched["big"]


def test_a_claim_can_be_given_back_and_a_system_written_anew(site, store):
    key = discovered(store, 1, 4, Signal.CLAIM, node="named")
    assert site.machines.release("named") == ("machine m-1: claimed -> discovered",)
    assert store.machine(key).node == ""
    with pytest.raises(HalliganError, match="not possible now"):
        site.machines.reinstall(["named"])
    with pytest.raises(HalliganError, match="no machine of node big is known yet"):
        site.machines.reinstall(["big"])


def test_what_operators_ask_makes_old_plans_stale(site, store):
    discovered(store, 1, 4, Signal.CLAIM, node="named")
    made = site.plan()
    before = store.revision()
    site.machines.release("named")
    assert store.revision() > before == made.base_revision


def test_without_a_discovery_image_nothing_is_begun(site, store, monkeypatch, tmp_path):
    monkeypatch.setenv("HALLIGAN_CACHE_DIR", str(tmp_path / "cache"))
    with pytest.raises(HalliganError, match="discovery image is not built") as caught:
        site.machines.command()
    assert "halligan image build discovery --kernel generic" in caught.value.hint
    made = site.plan()
    with pytest.raises(HalliganError, match="discovery image is not built"):
        site.apply(made, consent=("*",), on_event=lambda event: None)
    assert store.runs() == []


def test_a_machine_that_nobody_has_is_forgotten_by_its_id(site, store):
    discovered(store, 9)
    store.append([kinds.node_forgotten("m-9", at=9.0)])
    assert store.machine("m-9") is None
    assert store.check() == []
