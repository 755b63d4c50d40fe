"""Facts documents, ours and ironic-python-agent's: read whole, or refused with every problem and its path."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator import facts
from orchestrator.errors import ProblemsError
from orchestrator.facts import Facts, Neighbour, properties
from orchestrator.facts.lldp import neighbour

MATERIAL = Path(__file__).parent / "material/facts"
DOCUMENTS = sorted(path.name for path in MATERIAL.glob("*.json"))
GIB = 1024**3


def material(name: str) -> Facts:
    return facts.read((MATERIAL / name).read_bytes())


def inventory(**parts: object) -> bytes:
    return json.dumps({"inventory": parts}).encode()


def problems(document: bytes) -> list[tuple[str, str]]:
    with pytest.raises(ProblemsError) as caught:
        facts.read(document, source="m-1")
    assert {problem.where and problem.where.file for problem in caught.value.problems} == {"m-1"}
    return [(problem.code, problem.summary) for problem in caught.value.problems]


# --- real-looking machines ----------------------------------------------------------------------------------------


def test_a_dell_with_two_nvme_disks():
    dell = material("dell-r660.json")
    assert (dell.vendor, dell.serial, dell.firmware_mode, dell.secure_boot) == ("Dell Inc.", "7XK4PV3", "uefi", True)
    assert (dell.cpus, dell.cpu_sockets, dell.memory_bytes, len(dell.dimms)) == (128, 2, 256 * GIB, 16)
    assert [(disk.name, disk.type) for disk in dell.disks[:2]] == [("/dev/nvme0n1", "nvme"), ("/dev/nvme1n1", "nvme")]
    assert dell.boot_mac == "d0:8e:79:c1:4a:10"
    assert dell.nics[1].speed_mbps == 0  # -1 is what the kernel says without a link
    assert dell.nics[2].neighbours[0].port_id == "Ethernet12"
    assert dell.gpus[0].vendor_id == "10de"
    assert (dell.bmc_address, dell.tpm.version, dell.virtualization.cpu, dell.hypervisor) == (
        "10.20.8.61",
        "2.0",
        "vmx",
        "",
    )
    assert (dell.level, dell.clock) == ("full", 1790000000.25)


def test_the_bmc_s_virtual_port_is_no_part_of_the_identity():
    dell = material("dell-r660.json")
    assert "d0:8e:79:c1:4a:14" in {nic.mac for nic in dell.nics}
    assert "d0:8e:79:c1:4a:14" not in dell.identity.macs
    assert dell.identity.serials == (".7XK4PV3.CNFCP0039I01JC.", "7XK4PV3")


def test_a_usb_port_is_part_of_the_identity_only_if_the_machine_booted_from_it():
    ports = [
        {"name": "eno1", "mac_address": "3c:ec:ef:00:00:01"},
        {"name": "eth1", "mac_address": "00:e0:4c:00:00:02", "driver": "r8152"},
        {"name": "eth2", "mac_address": "00:e0:4c:00:00:03", "usb": True},
    ]
    assert facts.read(inventory(interfaces=ports)).identity.macs == ("3c:ec:ef:00:00:01",)
    booted = facts.read(inventory(interfaces=ports, boot={"pxe_interface": "00:e0:4c:00:00:02"}))
    assert booted.identity.macs == ("00:e0:4c:00:00:02", "3c:ec:ef:00:00:01")


def test_a_supermicro_with_turning_disks():
    server = material("supermicro-6029.json")
    assert [disk.type for disk in server.disks] == ["ssd"] + ["hdd"] * 7
    assert server.identity.serials == ("C8290LK29N70112", "S394124X0A23456")  # one was to be filled by O.E.M.
    assert server.identity.uuid == "00000000-0000-0000-0000-3cecef5a9e60"
    assert server.identity.macs == ("3c:ec:ef:5a:9e:60", "3c:ec:ef:5a:9e:61")
    assert server.gpus == ()


def test_a_qemu_machine_keeps_its_locally_administered_mac():
    guest = material("qemu.json")
    assert guest.identity.macs == ("52:54:00:ab:00:01",)
    assert guest.identity.uuid == "8f0e3b52-7d5c-4c55-9c0e-0a4e6e6b9d11"
    assert (guest.serial, guest.identity.serials, guest.hypervisor) == ("", (), "kvm")


def test_ironic_python_agent_s_own_inspection_data():
    ipa = material("ironic-python-agent.json")
    assert (ipa.boot_mac, ipa.level, ipa.virtualization.cpu) == ("b8:59:9f:0a:11:20", "full", "svm")
    first = ipa.dimms[0]
    assert (first.locator, first.size // GIB, first.speed_mts) == ("DIMM_P0_A0", 32, 3200)
    assert len(ipa.dimms) == 4  # four slots are empty
    assert [(gpu.vendor_id, gpu.product_id) for gpu in ipa.gpus] == [("10de", "20b5")]  # the BMC's VGA is none
    assert ipa.nics[0].neighbours == (
        Neighbour(
            system_name="leaf-1",
            chassis_id="44:38:39:00:00:11",
            port_id="swp9",
            port_description="to r1-u9",
            management_address="10.20.9.1",
            vlans=(100, 200, 300),
        ),
    )
    assert ipa.nics[1].neighbours == ()
    assert ipa.bmc_address == "10.30.8.7"


def test_unknown_keys_are_kept_and_logs_are_not():
    ipa = material("ironic-python-agent.json")
    assert ipa.document["numa_topology"]["ram"] == [{"numa_node": 0, "size_kb": 131072000}]
    assert ipa.document["inventory"]["disks"][0]["wwn_vendor_extension"] is None
    assert "logs" not in ipa.document


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_property_has_a_value_and_can_be_stored(name):
    found = properties(material(name))
    assert set(found) == set(facts.PROPERTIES)
    for key, property_ in facts.PROPERTIES.items():
        for item in found[key] if property_.items else ():
            assert set(item) == set(property_.items)
    json.dumps(dict(found))


def test_memory_is_what_is_plugged_in():
    """The kernel keeps some for itself: a rule for 128 GiB must fit a machine with 128 GiB."""
    dimms = [{"size_mb": 65536}, {"size_mb": 65536}, {"size_mb": 0}]
    total = 134855098368
    assert facts.read(inventory(memory={"total": total, "physical_mb": 131072})).memory_bytes == 128 * GIB
    assert facts.read(inventory(memory={"total": total, "dimms": dimms})).memory_bytes == 128 * GIB
    assert facts.read(inventory(memory={"total": total})).memory_bytes == total


def test_what_is_not_told_is_unknown():
    empty = facts.read(b'{"inventory": {"cpu": null, "disks": null}}')
    found = properties(empty)
    assert [found[name] for name in ("cpus", "memory_gib", "secure_boot", "nic_speed_gbps")] == [None] * 4
    assert empty.identity.macs == ()


def test_infiniband_ports_are_read_and_are_no_identity():
    gid = "80:00:02:08:fe:80:00:00:00:00:00:00:b8:59:9f:03:00:0a:11:20"
    found = facts.read(
        inventory(interfaces=[{"name": "ib0", "mac_address": gid}, {"name": "tun0", "mac_address": None}])
    )
    assert found.nics[0].mac == gid
    assert found.identity.macs == ()


def test_texts_are_safe_to_print_and_to_store():
    vendor = "ACME\x1b[2J\x00\ud800 €"
    found = facts.read(json.dumps({"inventory": {"system_vendor": {"manufacturer": vendor}}}).encode())
    assert found.vendor == "ACME [2J   €"


# --- LLDP ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tlv", "field", "value"),
    [
        ((1, "04443839000011"), "chassis_id", "44:38:39:00:00:11"),
        ((1, "0501c0000201"), "chassis_id", "192.0.2.1"),
        ((1, "050220010db8000000000000000000000001"), "chassis_id", "2001:db8::1"),
        ((1, "07" + b"rack-3".hex()), "chassis_id", "rack-3"),
        ((2, "03b8599f0a1120"), "port_id", "b8:59:9f:0a:11:20"),
        ((2, "0401c0000202"), "port_id", "192.0.2.2"),
        ((2, "05" + b"Ethernet1/12".hex()), "port_id", "Ethernet1/12"),
        ((4, b"uplink\x00".hex()), "port_description", "uplink"),
        ((5, "6c6561662de282ac"), "system_name", "leaf-€"),
        ((8, "0501c0000203020000000100"), "management_address", "192.0.2.3"),
        ((127, "0080c2010064"), "vlans", (100,)),
        ((127, "0080c20200012c"), "vlans", (300,)),
        ((127, "0080c20300c80470726f64"), "vlans", (200,)),
    ],
)
def test_a_tlv_is_decoded(tlv, field, value):
    kind, text = tlv
    found = neighbour([(kind, bytes.fromhex(text))])
    assert found is not None
    assert getattr(found, field) == value


@pytest.mark.parametrize(
    "tlv", [(1, "04"), (1, ""), (8, "ff01"), (127, "0080c201"), (127, "0080c2010fff"), (127, "00"), (3, "0078")]
)
def test_a_tlv_that_tells_nothing_is_left_out(tlv):
    assert neighbour([(tlv[0], bytes.fromhex(tlv[1]))]) is None


def test_nothing_counts_after_the_end_of_a_frame():
    assert neighbour([(0, b""), (5, b"ghost")]) is None


def test_a_frame_within_an_interface_is_read_too():
    tlvs = [[5, b"leaf-9".hex()]]
    found = facts.read(inventory(interfaces=[{"name": "eth0", "mac_address": "52:54:00:00:00:01", "lldp": tlvs}]))
    assert found.nics[0].neighbours[0].switch == "leaf-9"


@given(st.lists(st.tuples(st.integers(), st.binary(max_size=30))))
def test_any_frame_is_decoded_without_an_error(tlvs):
    neighbour(tlvs)


# --- bad documents ------------------------------------------------------------------------------------------------


def test_all_wrong_types_are_reported_at_once_with_their_paths():
    document = json.loads((MATERIAL / "dell-r660.json").read_text())
    document["inventory"]["disks"][1]["size"] = "big"
    document["inventory"]["disks"][0]["rotational"] = 1
    document["inventory"]["interfaces"][2]["mac_address"] = "leaf"
    document["inventory"]["cpu"]["count"] = True
    document["inventory"]["cpu"]["flags"] = ["ok", 3]
    document["inventory"]["boot"]["current_boot_mode"] = "dos"
    document["inventory"]["memory"]["dimms"] = {}
    document["inventory"]["system_vendor"] = "Dell"
    document["inventory"]["disks"].append("sdz")
    document["lldp"]["eno8303"][0]["vlans"] = ["20"]
    document["lldp_raw"] = {"eno1": [[1, "zz"], [1], 5]}
    found = [summary for _, summary in problems(json.dumps(document).encode())]
    for path in (
        'inventory.disks[1].size is the text "big", not a whole number',
        "inventory.disks[0].rotational is the number 1, not true or false",
        'inventory.interfaces[2].mac_address is "leaf", which is no MAC address',
        "inventory.cpu.count is true, not a whole number",
        "inventory.cpu.flags[1] is the number 3, not a text",
        'inventory.boot.current_boot_mode is "dos", not one of uefi, bios',
        "inventory.memory.dimms is an object, not a list",
        'inventory.system_vendor is the text "Dell", not an object',
        'inventory.disks[3] is the text "sdz", not an object',
        'lldp.eno8303[0].vlans[0] is the text "20", not a whole number',
        "lldp_raw.eno1[0][1] is not written in hex digits",
        "lldp_raw.eno1[1] is a list, not a pair of type and hex digits",
        "lldp_raw.eno1[2] is the number 5, not a pair of type and hex digits",
    ):
        assert path in found
    assert len(found) == 13


@pytest.mark.parametrize(
    ("document", "code", "words"),
    [
        (b"", "facts.json", "is no JSON"),
        (b"\xff\xfe", "facts.json", "is no JSON"),
        (b"[]", "facts.type", "is a list, not an object"),
        (b"{}", "facts.type", "inventory is missing"),
        (b'{"inventory": {}, "x": 1e999}', "facts.value", "x is a number out of any range"),
        (b'{"inventory": {}, "x": NaN}', "facts.value", "x is a number out of any range"),
        (b'{"inventory": {}, "x": ' + b"9" * 30 + b"}", "facts.value", "x is a number out of any range"),
        (b'{"inventory": {}, "x": ' + b"9" * 5000 + b"}", "facts.json", "is no JSON"),
        (b'{"inventory": {}, "x": ' + b"[" * 40 + b"]" * 40 + b"}", "facts.depth", "is nested deeper than 32 levels"),
        (b'{"inventory": ' * 20_000, "facts.depth", "is nested too deeply"),
        (inventory(hostname="x" * 5000), "facts.text", "inventory.hostname is a text of 5000 characters"),
        (inventory(disks=[{}] * 4097), "facts.count", "inventory.disks has 4097 members"),
        (inventory(interfaces=[{}] * 4097), "facts.count", "inventory.interfaces has 4097 members"),
        (inventory(disks=[{"name": "a", "size": -1}]), "facts.value", "inventory.disks[0].size is -1, below zero"),
        (inventory(disks=[{"size": 1}]), "facts.value", "inventory.disks[0].name is missing"),
        (b" " * facts.MOST_BYTES + b"{}", "facts.size", "at most 1048576 are read"),
        (b'{"inventory": {}, "agent": {"level": "half"}}', "facts.value", 'agent.level is "half"'),
    ],
)
def test_a_bad_document_is_refused_in_words(document, code, words):
    found = problems(document)
    assert [(c, words in text) for c, text in found][:1] == [(code, True)]


def test_a_flood_of_problems_is_cut_and_counted():
    found = problems(inventory(disks=[1] * 4000))
    assert len(found) == 51
    assert found[-1][1] == "and 3950 more"


@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(document):
    with suppress(ProblemsError):
        facts.read(document)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def _spots(value: object, path: tuple[object, ...] = ()) -> list[tuple[object, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path] + [spot for key, item in items for spot in _spots(item, (*path, key))]


@settings(max_examples=300, deadline=None)
@given(st.data(), st.sampled_from(DOCUMENTS))
def test_a_document_with_any_value_replaced_is_read_or_refused(data, name):
    """Whatever is read can be judged and stored as well."""
    document = json.loads((MATERIAL / name).read_text())
    spot = data.draw(st.sampled_from(_spots(document)[1:]))
    target = document
    for key in spot[:-1]:
        target = target[key]
    target[spot[-1]] = data.draw(json_values)
    with suppress(ProblemsError):
        found = facts.read(json.dumps(document).encode())
        json.dumps(dict(properties(found)), allow_nan=False).encode()
        json.dumps(dict(found.document), allow_nan=False).encode()
