"""Rules over facts: what is wrong with one, why a machine fits or not, and who gets which machine."""

from __future__ import annotations

import itertools
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator import facts
from orchestrator.errors import HalliganError, Problem
from orchestrator.facts import PROPERTIES, Disk, Facts, Neighbour, Nic
from orchestrator.matching import (
    Candidate,
    Wanted,
    assign,
    check,
    check_disk,
    check_wiring,
    judge,
    natural,
    pick_disk,
    wiring,
)
from orchestrator.model import Identity, MachineState, Phase

MATERIAL = Path(__file__).parent / "material/facts"
DELL, SUPERMICRO, QEMU, IPA = (
    facts.read((MATERIAL / f"{name}.json").read_bytes())
    for name in ("dell-r660", "supermicro-6029", "qemu", "ironic-python-agent")
)
GB, GIB = 10**9, 1024**3


# --- conditions ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "rule",
    [
        {"memory_gib": 256},
        {"memory_gib": "256"},
        {"memory_gib": ">= 128"},
        {"memory_gib": ">= 128 GiB"},
        {"memory_gib": "> 0.2 TiB"},
        {"memory_gib": "128 .. 256"},
        {"memory_gib": "128 GiB .. 1 TiB"},
        {"memory_gib": ".. 256"},
        {"memory_gib": "256 .."},
        {"memory_gib": "!= 128"},
        {"memory_gib": [128, 256]},
        {"memory_bytes": ">= 256 GiB"},
        {"memory_bytes": 274877906944},
        {"cpus": "=128"},
        {"cpus": "< 129"},
        {"cpus": ["<= 2", ">= 100"]},
        {"vendor": "dell inc."},
        {"vendor": "Dell*"},
        {"vendor": ["HPE", "dell*"]},
        {"vendor": "!= HP*"},
        {"product": "PowerEdge R?60*"},
        {"product": "*R[67]60*"},
        {"firmware": "uefi"},
        {"secure_boot": True},
        {"tpm": "2.*"},
        {"tpm": True},
        {"hypervisor": False},
        {"hypervisor": ""},
        {"bmc": True},
        {"serial": "7XK4PV3"},
        {"cpu_flags": "avx512f"},
        {"cpu_flags": "!= svm"},
        {"macs": "BC:97:E1:77:20:C1"},
        {"lldp.switch": "leaf-3*"},
        {"lldp.port": "Ethernet12"},
        {"lldp.vlan": 200},
        {"nic_speed_gbps": 25},
        {"disks": 2},
        {"disks": ">= 2"},
        {"disks": {"count": 2}},
        {"disks": {"nvme": ">= 2"}},
        {"disks": {"nvme": {"count": ">= 2", "size": ">= 1.5 TB"}, "hdd": 0}},
        {"disks": {"size": "1.92 TB"}},
        {"disks": {"size": "1 TB .. 2 TB", "type": ["ssd", "nvme"], "rotational": False}},
        {"gpus": {"count": ">= 1", "vendor": "10de"}},
        {"gpus": {"vendor": "NVIDIA*"}},
        {"nics": {"count": ">= 2", "speed_gbps": ">= 25"}},
        {"nics": 4},
        {"nics": {"switch": "leaf-3b", "port": "Ethernet12"}},
        {"pci": {"class": "02*", "vendor": "14e4"}},
        {"dimms": {"count": 16, "size": "16 GiB"}},
        {"not": {"vendor": "HPE"}},
        {"any": [{"vendor": "HPE"}, {"cpus": 128}]},
        {"all": [{"any": [{"cpus": 128}, {"cpus": 64}]}, {"any": [{"vendor": "Dell*"}]}]},
        {"not": {"any": [{"vendor": "HPE"}, {"cpus": "< 8"}]}},
        {},
    ],
    ids=json.dumps,
)
def test_a_dell_fits(rule):
    assert check(rule) == ()
    assert judge(rule, DELL).matches
    assert judge({"not": rule} if rule else {"cpus": 1}, DELL).matches is False


@pytest.mark.parametrize(
    "rule",
    [
        {"memory_gib": "> 256"},
        {"memory_gib": "!= 256"},
        {"memory_gib": ">= 1 TB"},
        {"memory_gib": ".. 255"},
        {"cpus": [2, 4]},
        {"vendor": "Dell"},
        {"vendor": "!= dell*"},
        {"hypervisor": True},
        {"tpm": False},
        {"lldp.switch": "!= leaf-3*"},
        {"lldp.switch": "leaf-4*"},
        {"secure_boot": False},
        {"disks": {"count": 3}},
        {"disks": {"hdd": 1}},
        {"disks": {"nvme": {"count": 2, "size": ">= 2 TB"}}},
        {"disks": {"size": "2 TB"}},
        {"gpus": {"vendor": "1002"}},
        {"nics": {"count": ">= 3", "speed_gbps": ">= 25"}},
        {"any": [{"vendor": "HPE"}, {"cpus": 2}]},
        {"vendor": "Dell*", "cpus": 2},
    ],
    ids=json.dumps,
)
def test_a_dell_does_not_fit(rule):
    assert check(rule) == ()
    judgement = judge(rule, DELL)
    assert not judgement.matches
    assert judgement.reasons


def test_a_size_is_equal_within_a_percent():
    """A "480 GB" disk has 480.1 GB, and behind a RAID controller 479.6 GB; a "3.84 TB" one has not 4 TB."""
    for size, wanted, fits in (
        (480103981056, "480 GB", True),
        (479559942144, "480 GB", True),
        (3840755982336, "4 TB", False),
    ):
        machine = replace(DELL, disks=(Disk(name="/dev/sda", size=size, rotational=False),))
        assert judge({"disks": {"ssd": {"size": wanted}}}, machine).matches is fits


def test_what_is_not_known_meets_no_condition():
    unknown = Facts(identity=Identity())
    for condition in (0, "!= 4", "< 100", ".. 100"):
        assert not judge({"cpus": condition}, unknown).matches
    assert judge({"cpus": 4}, unknown).reasons == ("cpus is not known, wanted: 4",)
    assert not judge({"secure_boot": False}, unknown).matches


def test_removable_disks_and_usb_ports_do_not_count():
    assert judge({"disks": 1}, QEMU).matches  # the CD drive is none
    assert judge({"nics": 2}, SUPERMICRO).matches


def test_every_yes_and_no_is_explained():
    rule = {
        "memory_gib": ">= 128",
        "disks": {"nvme": ">= 2"},
        "lldp.switch": "leaf-3*",
        "not": {"hypervisor": True},
        "any": [{"tpm": "2.*"}, {"gpus": ">= 1"}],
    }
    found = judge(rule, SUPERMICRO)
    assert [(clause.key, clause.ok) for clause in found.clauses] == [
        ("memory_gib", True),
        ("disks.nvme", False),
        ("lldp.switch", False),
        ("not", True),
        ("any", False),
    ]
    assert [clause.why for clause in found.clauses] == [
        "memory_gib is 128 GiB, as wanted: at least 128 GiB",
        "disks.nvme: 0 of 8 fit, wanted: at least 2 with type nvme (found 1 x type ssd; 7 x type hdd)",
        "lldp.switch is leaf-2, 44:38:39:00:00:02, wanted: leaf-3*",
        "not: it does not fit what must not be: hypervisor is empty, wanted: any",
        "any: no alternative fits: (1) tpm is empty, wanted: 2.* (2) gpus: 0 there, wanted: at least 1",
    ]
    assert found.reasons == tuple(clause.why for clause in found.clauses if not clause.ok)


# --- faulty rules -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "path", "words"),
    [
        ([], "", "is no rule"),
        ("fast", "", "is no rule"),
        ({"memory_gb": 1}, "memory_gb", 'no property that a rule can use. Did you mean "memory_gib"?'),
        ({1: 1}, "1", "no property"),
        ({"lldp": {"switch": "x"}}, "lldp", "Write lldp.port or lldp.switch or lldp.vlan"),
        ({"memory_gib": ">= 128 GX"}, "memory_gib", 'the unknown unit "GX"'),
        ({"memory_gib": "128 G"}, "memory_gib", 'the unknown unit "G"'),
        ({"memory_gib": "=> 128"}, "memory_gib", 'starts with "=>"'),
        ({"memory_gib": ">="}, "memory_gib", "compares with nothing"),
        ({"memory_gib": "lots"}, "memory_gib", '"lots" is no amount'),
        ({"memory_gib": "-1"}, "memory_gib", '"-1" is no amount'),
        ({"memory_gib": "256 .. 128"}, "memory_gib", "ends before it begins"),
        ({"memory_gib": ".."}, "memory_gib", "neither a beginning nor an end"),
        ({"memory_gib": True}, "memory_gib", "not an amount"),
        ({"memory_gib": float("nan")}, "memory_gib", "is no amount"),
        ({"memory_gib": None}, "memory_gib", "has no condition"),
        ({"memory_gib": {"min": 1}}, "memory_gib", "takes no further keys"),
        ({"memory_gib": []}, "memory_gib", "empty list"),
        ({"memory_gib": [1, [2]]}, "memory_gib.1", "a list within a list"),
        ({"memory_gib": [1, "x"]}, "memory_gib.1", "is no amount"),
        ({"cpus": "4 GB"}, "cpus", "plain number"),
        ({"vendor": ">= Dell"}, "vendor", "compares by size"),
        ({"vendor": ["!= Dell", "!= HPE"]}, "vendor.0", "nearly all match"),
        ({"firmware": "efi"}, "firmware", 'none of bios, uefi. Did you mean "uefi"?'),
        ({"secure_boot": "yes"}, "secure_boot", "neither true nor false"),
        ({"disks": {"size": 480}}, "disks.size", "has no unit"),
        ({"disks": {"sdd": 2}}, "disks.sdd", 'Did you mean "ssd"?'),
        ({"disks": {"type": "sdd"}}, "disks.type", 'Did you mean "ssd"?'),
        ({"disks": {"ssd": "two"}}, "disks.ssd", "is no amount"),
        ({"disks": {"ssd": {"count": "two"}}}, "disks.ssd.count", "is no amount"),
        ({"disks": {"ssd": {"sise": "1 TB"}}}, "disks.ssd.sise", 'Did you mean "size"?'),
        ({"disks": {"count": None}}, "disks.count", "has no condition"),
        ({"disks": {}}, "disks", "is empty"),
        ({"disks": True}, "disks", "not an amount"),
        ({"gpus": {"nvme": 1}}, "gpus.nvme", "no property of gpus"),
        ({"not": []}, "not", "is no rule"),
        ({"not": {}}, "not", "everything fits"),
        ({"not": {"cpuz": 1}}, "not.cpuz", 'Did you mean "cpus"?'),
        ({"any": {}}, "any", "is no list of rules"),
        ({"any": []}, "any", "is no list of rules"),
        ({"any": [{"cpus": 1}, {}]}, "any.1", "everything fits"),
        ({"any": [{"cpus": 1}, {"cpus": "x"}]}, "any.1.cpus", "is no amount"),
    ],
    ids=lambda value: json.dumps(value) if isinstance(value, dict | list) else None,
)
def test_a_faulty_rule_is_explained_with_its_path(rule, path, words):
    (fault,) = check(rule)
    assert ".".join(map(str, fault.path)) == path
    assert words in fault.summary
    assert fault.hint
    with pytest.raises(HalliganError, match="cannot be read"):
        judge(rule, DELL)


def test_all_faults_of_a_rule_are_reported_at_once():
    rule = {"cpus": "x", "disks": {"nvme": {"size": 1, "count": "x"}, "foo": 1}, "not": {"any": [{"vendor": None}]}}
    assert [fault.path for fault in check(rule)] == [
        ("cpus",),
        ("disks", "foo"),
        ("disks", "nvme", "count"),
        ("disks", "nvme", "size"),
        ("not", "any", 0, "vendor"),
    ]


def test_a_rule_nested_too_deeply_is_refused():
    rule: dict[str, object] = {"cpus": 1}
    for _ in range(500):
        rule = {"not": rule}
    (fault,) = check(rule)
    assert "nested deeper" in fault.summary


anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=10)
    | st.sampled_from([">= 1 GB", "a*", "[!"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from([*PROPERTIES, "not", "any", "all", "count", "size", "type", "nvme", "x"]), inner, max_size=3
        )
    ),
    max_leaves=8,
)


@settings(max_examples=300, deadline=None)
@given(anything, st.sampled_from([DELL, QEMU]))
def test_any_rule_is_checked_and_then_judged_without_an_error(rule, machine):
    if not check(rule):
        judgement = judge(rule, machine)
        assert judgement.matches is all(clause.ok for clause in judgement.clauses)
        assert all(clause.why for clause in judgement.clauses)
    check_disk(rule)
    check_wiring(rule)


# --- assignment ---------------------------------------------------------------------------------------------------


def machine(number: int, *, cpus: int = 8, switch: str = "", port: str = "", **rest: object) -> Candidate:
    identity = Identity(serials=(f"S-{number:04d}",), macs=(f"52:54:00:00:{number >> 8:02x}:{number & 255:02x}",))
    neighbours = (Neighbour(system_name=switch, port_id=port),) if switch else ()
    nic = Nic(name="eth0", mac=identity.macs[0], neighbours=neighbours)
    told = Facts(identity=identity, cpus=cpus, nics=(nic,), level=str(rest.pop("level", "full")))
    state = MachineState(id=f"m-{number:012x}", phase=Phase(rest.pop("phase", "discovered")), identity=identity, **rest)  # type: ignore[arg-type]
    return Candidate(machine=state, facts=told)


def ids(*numbers: int) -> tuple[str, ...]:
    return tuple(f"m-{number:012x}" for number in numbers)


def wants(node: str, cpus: object = "", **rest: str) -> Wanted:
    return Wanted(node=node, rule={"cpus": cpus} if cpus else {}, **rest)


def test_nodes_take_machines_in_natural_order_of_switch_and_port():
    places = [("leaf-10", "Ethernet1"), ("leaf-2", "Ethernet10"), ("leaf-2", "Ethernet9"), ("", "")]
    machines = [machine(n, switch=switch, port=port) for n, (switch, port) in enumerate(places)]
    found = assign([wants("kvm-10", 8), wants("kvm-9", 8), wants("kvm-1", 8)], machines)
    assert dict(found.chosen) == dict(zip(["kvm-1", "kvm-9", "kvm-10"], ids(2, 1, 0), strict=True))
    assert found.spare == ids(3)
    assert found.decided["kvm-1"] == "rule; 4 machines fit (leaf-2 port Ethernet9)"


def test_the_port_it_booted_from_decides_where_a_machine_is():
    two = (
        Nic(name="eth0", mac="52:54:00:00:00:01", neighbours=(Neighbour(system_name="leaf-1", port_id="1"),)),
        Nic(name="eth1", mac="52:54:00:00:00:02", neighbours=(Neighbour(system_name="leaf-9", port_id="1"),)),
    )
    moved = machine(1)
    moved = replace(moved, facts=replace(moved.facts, nics=two, boot_mac="52:54:00:00:00:02"))
    found = assign([wants("a", 8), wants("b", 8)], [moved, machine(2, switch="leaf-5", port="1")])
    assert dict(found.chosen) == {"a": ids(2)[0], "b": ids(1)[0]}


def test_without_lldp_the_serial_number_decides():
    found = assign([wants("a", 8)], [machine(3), machine(2), machine(10)])
    assert found.chosen["a"] == ids(2)[0]


def test_a_greedy_choice_leaves_no_node_empty():
    """a fits both and comes first; b fits only the one that a would take."""
    machines = [machine(1, cpus=16), machine(2, cpus=8)]
    found = assign([wants("a", ">= 8"), wants("b", 16)], machines)
    assert dict(found.chosen) == {"a": ids(2)[0], "b": ids(1)[0]}
    assert not found.unmatched


def test_a_chain_of_moves_is_found():
    machines = [machine(n, cpus=n) for n in range(1, 6)]
    nodes = [wants(f"n{n}", [n, n + 1]) for n in range(1, 5)] + [wants("z", 1)]
    found = assign(nodes, machines)
    assert found.chosen["z"] == ids(1)[0]
    assert len(set(found.chosen.values())) == 5


def test_named_nodes_come_first_and_keep_their_machine_from_rules():
    machines = [machine(1), machine(2)]
    nodes = [wants("a", 8), wants("b", 8), wants("z", mac="52-54-00-00-00-01")]
    found = assign(nodes, machines)
    assert dict(found.chosen) == {"a": ids(2)[0], "z": ids(1)[0]}
    assert found.decided["z"] == "MAC 52-54-00-00-00-01"
    assert found.unmatched["b"] == (f"2 machines ({ids(1)[0]}, {ids(2)[0]}) fit, but went to a, z",)


def test_a_claimed_machine_stays_with_its_node_whatever_its_rule_says():
    found = assign(
        [wants("a", 64), wants("b", 8)], [machine(1, node="a", phase="claimed"), machine(2, node="x", phase="ready")]
    )
    assert dict(found.chosen) == {"a": ids(1)[0]}
    assert found.decided["a"] == "claimed before"
    assert found.unmatched["b"] == (
        f"1 machine ({ids(1)[0]}) fits, but went to a",
        f"1 machine ({ids(2)[0]}) would fit, but belongs to x",
    )


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        (wants("a", mac="52:54:00:00:00:99"), "no machine with MAC 52:54:00:00:00:99 was discovered"),
        (wants("a", mac="garbage"), "no machine with MAC garbage was discovered"),
        (wants("a", serial="s-0002"), f"{ids(2)[0]} with serial number s-0002 is failed (no disk)"),
        (
            wants("a", mac="52:54:00:00:00:01", serial="S-0003"),
            "no machine with MAC 52:54:00:00:00:01 and serial number S-0003",
        ),
        (wants("a", 64, serial="S-0001"), f"{ids(1)[0]} with serial number S-0001 does not fit the node's rule"),
        (wants("a", serial="S-0007"), f"2 machines have serial number S-0007: {ids(7)[0]}, {ids(8)[0]}"),
        (wants("a", serial="S-0009"), f"{ids(9)[0]} with serial number S-0009 belongs to kvm-1"),
        (wants("a"), "it says nothing of its machine"),
        (wants("a", 64), "cpus is 8, wanted: 64"),
        (wants("a", 4), "would fit, but told only basic facts so far"),
        (wants("a", 5), "would fit, but is failed"),
    ],
)
def test_a_node_without_a_machine_learns_why(wanted, reason):
    twin = machine(8)
    same = replace(twin.machine.identity, serials=("S-0007",))
    machines = [
        machine(1),
        machine(2, phase="failed", reason="no disk"),
        machine(3),
        machine(4, cpus=4, level="basic"),
        machine(5, cpus=5, phase="failed"),
        machine(7),
        replace(twin, machine=replace(twin.machine, identity=same)),
        machine(9, node="kvm-1", phase="claimed"),
    ]
    found = assign([wanted], machines)
    assert not found.chosen
    assert any(reason in line for line in found.unmatched["a"])


def test_two_nodes_that_name_one_machine_get_neither():
    found = assign([wants("a", mac="52:54:00:00:00:01"), wants("b", serial="S-0001"), wants("c", 8)], [machine(1)])
    assert not found.chosen
    assert found.unmatched["a"] == (f"{ids(1)[0]} with MAC 52:54:00:00:00:01 is named by b too",)
    assert not found.spare


def test_no_machine_at_all():
    assert assign([wants("a", 8)], []).unmatched == {"a": ("no machine was discovered",)}


def test_a_faulty_rule_is_not_swallowed():
    with pytest.raises(HalliganError, match="cannot be read"):
        assign([wants("a", "x")], [machine(1)])


def test_machines_alike_in_what_keeps_them_away_are_one_line():
    found = assign([wants("a", 64)], [machine(n) for n in range(40)] + [machine(50, cpus=32)])
    (line,) = found.unmatched["a"]
    assert line.startswith(
        f"41 machines ({', '.join(ids(0, 1, 2))} and 38 more) do not fit (as {ids(0)[0]}): cpus is 8"
    )


def test_a_thousand_nodes_and_a_thousand_machines():
    """Groups of equal rules, and rules of their own that force chains of moves."""
    machines = [machine(n, cpus=1 + n % 40, switch=f"leaf-{n // 48}", port=f"Ethernet{n % 48}") for n in range(1000)]
    nodes = [wants(f"n{n}", f">= {1 + n % 40}") for n in range(1000)]
    found = assign(nodes, machines)
    assert len(found.chosen) == len(set(found.chosen.values())) == 1000


small_machines = st.lists(st.integers(1, 5), max_size=6)
small_rules = st.lists(st.sets(st.integers(1, 5), min_size=1, max_size=3), max_size=6)


@given(small_machines, small_rules, st.randoms())
def test_as_many_nodes_as_possible_get_a_machine_and_the_order_of_arguments_decides_nothing(cpus, rules, random):
    machines = [machine(n, cpus=number) for n, number in enumerate(cpus)]
    nodes = [wants(f"n{n}", sorted(rule)) for n, rule in enumerate(rules)]
    found = assign(nodes, machines)
    by_id = {candidate.machine.id: candidate.facts.cpus for candidate in machines}
    assert all(by_id[id_] in rules[int(node[1:])] for node, id_ in found.chosen.items())
    assert len(set(found.chosen.values())) == len(found.chosen)
    assert set(found.chosen) | set(found.unmatched) == {node.node for node in nodes}
    assert len(found.chosen) == most(cpus, rules)
    random.shuffle(machines)
    random.shuffle(nodes)
    assert assign(nodes, machines) == found


def most(cpus: list[int], rules: list[set[int]]) -> int:
    """Return the most nodes that can have a machine: Hall's theorem in Koenig's form, over all subsets of nodes."""
    worst = 0
    for size in range(len(rules) + 1):
        for chosen in itertools.combinations(rules, size):
            within = sum(any(number in rule for rule in chosen) for number in cpus)
            worst = max(worst, size - within)
    return len(rules) - worst


@given(st.lists(st.text(max_size=8)))
def test_natural_order_is_an_order(texts):
    assert sorted(sorted(texts, key=natural, reverse=True), key=lambda t: (natural(t), t)) == sorted(
        texts, key=lambda t: (natural(t), t)
    )


def test_natural_order():
    assert sorted(["kvm-10", "KVM-9", "kvm-2", "a"], key=natural) == ["a", "kvm-2", "KVM-9", "kvm-10"]


# --- disks --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "machine_", "name"),
    [
        ({"type": "ssd"}, SUPERMICRO, "/dev/sda"),
        ({"size": "< 1 TB"}, SUPERMICRO, "/dev/sda"),
        ({"by": "smallest"}, SUPERMICRO, "/dev/sda"),
        ({"type": "hdd", "by": "largest"}, SUPERMICRO, "/dev/sdb"),  # equal ones: by where they are plugged in
        ({"serial": "S6CVNA0W500212"}, DELL, "/dev/nvme1n1"),
        ({"name": "/dev/nvme0n1"}, DELL, "/dev/nvme0n1"),
        ({"wwn": "eui.3643463052701912*"}, DELL, "/dev/nvme1n1"),
        ({"type": ["ssd", "nvme"], "model": "MZ7LH480*"}, IPA, "/dev/sda"),
        ({}, QEMU, "/dev/vda"),
    ],
)
def test_a_disk_is_picked(rule, machine_, name):
    assert check_disk(rule) == ()
    disk = pick_disk(rule, machine_)
    assert isinstance(disk, Disk)
    assert disk.name == name


@pytest.mark.parametrize(
    ("rule", "machine_", "code", "words"),
    [
        ({}, DELL, "disk.several", "/dev/nvme0n1, /dev/nvme1n1. Which one?"),
        ({"type": "nvme"}, DELL, "disk.several", "Which one?"),
        ({"type": "hdd"}, DELL, "disk.none", "type hdd"),
        ({}, Facts(identity=Identity()), "disk.none", "has no fixed disk"),
        ({}, replace(QEMU, disks=(Disk(name="/dev/vda", size=3 * GB),)), "disk.none", "at least 4 GB"),
        ({"by": "newest"}, DELL, "disk.rule", "cannot be read"),
    ],
)
def test_no_disk_is_guessed(rule, machine_, code, words):
    found = pick_disk(rule, machine_)
    assert isinstance(found, Problem)
    assert found.code == code
    assert words in found.summary


def test_a_disk_smaller_than_the_image_is_refused_and_no_other_is_taken_instead():
    found = pick_disk({"by": "smallest"}, SUPERMICRO, min_bytes=300 * GB)
    assert isinstance(found, Problem)
    assert (found.code, "disk too small: /dev/sda" in found.summary) == ("disk.small", True)
    assert isinstance(pick_disk({"by": "smallest"}, SUPERMICRO, min_bytes=240 * GB), Disk)


def test_removable_disks_are_never_picked():
    stick = Disk(name="/dev/sdb", size=64 * GB, removable=True)
    found = pick_disk({}, replace(QEMU, disks=(*QEMU.disks, stick)))
    assert isinstance(found, Disk)
    assert found.name == "/dev/vda"
    assert isinstance(pick_disk({"name": "/dev/sdb"}, replace(QEMU, disks=(stick,))), Problem)


@pytest.mark.parametrize(
    ("rule", "path", "words"),
    [
        ({"tipe": "ssd"}, ("tipe",), 'Did you mean "type"?'),
        ({"count": 2}, ("count",), "no property of disks"),
        ({"by": "small"}, ("by",), 'Did you mean "smallest"?'),
        ({"size": "100"}, ("size",), "has no unit"),
        ("ssd", (), "is no rule"),
    ],
)
def test_a_faulty_disk_rule_is_explained(rule, path, words):
    (fault,) = check_disk(rule)
    assert fault.path == path
    assert words in fault.summary


# --- wiring -------------------------------------------------------------------------------------------------------


def test_cables_that_are_where_they_should_be():
    expected = {
        "ens1f0np0": {"switch": "leaf-3a", "port": "ethernet12"},
        "BC-97-E1-77-20-C1": {"switch": "leaf-3*", "port": "r3-u21 *"},
        "eno8303": {"switch": "44:38:39:00:00:03"},
    }
    assert check_wiring(expected) == ()
    assert wiring(expected, DELL) == ()


@pytest.mark.parametrize(
    ("expected", "code", "words"),
    [
        ({"eno9": {"switch": "a"}}, "wiring.nic", "no network port eno9, which should lead to switch a"),
        ({"eno8403": {"switch": "mgmt-3", "port": "swp8"}}, "wiring.link", "eno8403 has no link"),
        ({"idrac": {"switch": "mgmt-3"}}, "wiring.silent", "idrac heard no LLDP"),
        (
            {"ens1f0np0": {"switch": "leaf-3b", "port": "Ethernet12"}},
            "wiring.switch",
            "leads to switch leaf-3a port Ethernet12",
        ),
        ({"ens1f0np0": {"switch": "leaf-3a", "port": "Ethernet1"}}, "wiring.port", "wrong port"),
        ({"ens1f0np0": {"port": 12}}, "wiring.port", "it should lead to port 12"),
    ],
)
def test_a_wrong_cable_is_explained(expected, code, words):
    (problem,) = wiring(expected, DELL)
    assert problem.code == code
    assert words in problem.summary
    assert problem.hint


@pytest.mark.parametrize(
    ("expected", "path", "words"),
    [
        ([], (), "is no wiring"),
        ({"eno1": "leaf-1"}, ("eno1",), "neither switch nor port"),
        ({"eno1": {}}, ("eno1",), "neither switch nor port"),
        ({"eno1": {"swich": "a"}}, ("eno1", "swich"), 'Did you mean "switch"?'),
        ({"eno1": {"port": True}}, ("eno1", "port"), "is no text"),
    ],
)
def test_faulty_wiring_is_explained(expected, path, words):
    (fault,) = check_wiring(expected)
    assert fault.path == path
    assert words in fault.summary


# --- the page -----------------------------------------------------------------------------------------------------

PAGE = (Path(__file__).parents[2] / "docs/matching.md").read_text()


def test_the_page_has_the_table_of_properties_that_the_code_has():
    section = PAGE.partition("## Properties\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `([^`]+)` \| (\w+) \| (.+) \|$", section, re.M)
    code = []
    for name, property_ in PROPERTIES.items():
        code.append((name, property_.kind.value, property_.about))
        code += [(f"{name}: {item}", each.kind.value, each.about) for item, each in property_.items.items()]
    assert rows == code


def test_every_rule_on_the_page_can_be_read():
    yaml = pytest.importorskip("yaml")
    blocks = re.findall(r"```yaml\n(.+?)```", PAGE, re.S)
    readers = {"match": check, "expect": check, "root_disk": check_disk, "wiring": check_wiring}
    seen = set()
    for block in blocks:
        for document in yaml.safe_load_all(block):
            for key, rule in document.items():
                assert readers[key](rule) == (), rule
                seen.add(key)
    assert seen == set(readers)
