"""Who is who: machines are recognised after repairs, and two machines are never taken for one."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator import identity
from orchestrator.errors import HalliganError
from orchestrator.identity import compare, keys, make, new_id, recognise
from orchestrator.model import Identity, MachineState, Phase

UUID, OTHER_UUID = "4c4c4544-0058-4b10-8034-b7c04f505633", "8f0e3b52-7d5c-4c55-9c0e-0a4e6e6b9d11"
MACS = tuple(f"3c:ec:ef:00:00:0{n}" for n in range(1, 5))
OTHER_MACS = tuple(f"b8:59:9f:00:00:0{n}" for n in range(1, 5))
SERVER = Identity(uuid=UUID, serials=("BOARD-1", "TAG-1"), macs=MACS[:2])


def known(machine: Identity, id_: str = "m-000000000001", **rest: object) -> MachineState:
    return MachineState(id=id_, phase=Phase.DISCOVERED, identity=machine, **rest)  # type: ignore[arg-type]


def kind(machine: Identity, *others: Identity) -> str:
    return recognise([known(other, f"m-{at:012x}") for at, other in enumerate(others)], machine).kind


# --- normal forms -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "00000000-0000-0000-0000-000000000000",
        "FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF",
        "fefefefe-fefe-fefe-fefe-fefefefefefe",
        "03000200-0400-0500-0006-000700080009",
        "76006B9C-C49C-0000-0000-000000000000",
        "not-a-uuid",
        "",
    ],
)
def test_a_uuid_that_says_nothing_is_dropped(text):
    assert identity.normal_uuid(text) == ""


@pytest.mark.parametrize("text", [UUID.upper(), f"  {UUID}\n", "{" + UUID + "}", UUID.replace("-", "")])
def test_a_uuid_has_one_spelling(text):
    assert identity.normal_uuid(text) == UUID


def test_a_uuid_made_of_zeros_and_the_mac_is_one():
    assert identity.normal_uuid("00000000-0000-0000-0000-3CECEF5A9E60") == "00000000-0000-0000-0000-3cecef5a9e60"


@pytest.mark.parametrize(
    "text",
    [
        "To Be Filled By O.E.M.",
        "Not Specified",
        "Default string",
        "0123456789",
        "None",
        "",
        "  ",
        "00000000",
        "........",
        "System Serial Number",
        "xxxxxxxxx",
        "N/A",
        "to  be filled\tby o.e.m.",
    ],
)
def test_a_serial_number_that_says_nothing_is_dropped(text):
    assert identity.normal_serial(text) == ""


def test_a_serial_number_keeps_its_case_and_loses_blanks():
    assert identity.normal_serial("  CZ 3421mGJ7 ") == "CZ 3421mGJ7"


@pytest.mark.parametrize("text", ["52:54:00:AB:cd:1", "52-54-00-ab-cd-01", "5254.00ab.cd01", " 525400abcd01 "])
def test_a_mac_has_one_spelling(text):
    assert identity.normal_mac(text) == "52:54:00:ab:cd:01"


@pytest.mark.parametrize(
    "text", ["", "00:00:00:00:00:00", "ff:ff:ff:ff:ff:ff", "52:54:00", "52:54-00:ab:cd:01", "x" * 12]
)
def test_what_is_no_mac_is_dropped(text):
    assert identity.normal_mac(text) == ""


def test_local_multicast_and_double_macs_count_only_if_nothing_better_is_there():
    ours, local, multicast, double = "3c:ec:ef:00:00:01", "52:54:00:00:00:01", "01:00:5e:00:00:01", "3c:ec:ef:00:00:09"
    assert make(macs=[local, ours, multicast, double, double]).macs == (ours,)
    assert make(macs=[local, multicast]).macs == (local,)
    assert make(macs=[multicast]).macs == (multicast,)
    assert make(macs=[double, double]).macs == (double,)


def test_a_shared_port_counts_only_if_it_is_all_there_is():
    assert make(macs=[MACS[0], MACS[1]], doubtful=[MACS[1]]).macs == (MACS[0],)
    assert make(macs=["52:54:00:00:00:01", MACS[1]], doubtful=[MACS[1]]).macs == ("52:54:00:00:00:01",)
    assert make(macs=[MACS[1]], doubtful=[MACS[1]]).macs == (MACS[1],)


def test_the_port_it_booted_from_always_counts():
    """Firmware names it at the next boot: it must not contradict what is known by then."""
    told = make(UUID, ["TAG-1"], macs=[MACS[0], "52:54:00:00:00:01"], doubtful=[MACS[3]], booted=MACS[3].upper())
    assert told.macs == (MACS[0], MACS[3])
    assert kind(make(UUID, ["TAG-1"], macs=[MACS[3]]), told) == "same"
    assert make(macs=[MACS[0]], booted="garbage").macs == (MACS[0],)


def test_serial_numbers_are_told_apart_whatever_their_case():
    assert len(make(serials=["TAG-1", "tag-1", "None"]).serials) == 1
    assert compare(make(serials=["TAG-1"]), make(serials=["tag-1"])).agree == ("serial:TAG-1",)


# --- repairs ------------------------------------------------------------------------------------------------------


def test_a_machine_is_itself():
    found = recognise([known(SERVER), known(Identity(uuid=OTHER_UUID), "m-2")], SERVER)
    assert (found.kind, found.machine and found.machine.id) == ("same", "m-000000000001")
    assert "160 points" in found.reasons[0]
    assert UUID in found.reasons[0]


@pytest.mark.parametrize(
    "repaired",
    [
        pytest.param(replace(SERVER, macs=(MACS[0], OTHER_MACS[0])), id="one port replaced"),
        pytest.param(replace(SERVER, macs=OTHER_MACS[:2]), id="all ports replaced, UUID and two serial numbers stay"),
        pytest.param(replace(SERVER, uuid=OTHER_UUID), id="mainboard: ports and serial numbers moved over"),
        pytest.param(replace(SERVER, serials=("BOARD-2",)), id="serial numbers retyped, UUID and ports stay"),
        pytest.param(replace(SERVER, serials=(), uuid=""), id="firmware tells nothing any more"),
        pytest.param(replace(SERVER, macs=MACS[:1]), id="what iPXE tells: one port"),
    ],
)
def test_a_repaired_machine_is_recognised(repaired):
    assert kind(repaired, SERVER) == "same"


def test_a_new_mainboard_with_a_card_that_stayed():
    before = Identity(uuid=UUID, serials=("BOARD-1", "TAG-1"), macs=(*MACS[:2], *OTHER_MACS[:3]))
    after = Identity(uuid=OTHER_UUID, serials=("BOARD-2", "TAG-1"), macs=("3c:ec:ef:99:00:01", *OTHER_MACS[:3]))
    assert kind(after, before) == "same"
    fewer = replace(after, macs=after.macs[:2])
    found = recognise([known(before)], fewer)
    assert found.kind == "conflict"
    assert any("mainboard" in reason for reason in found.reasons)


def test_a_machine_that_tells_only_its_mac_is_known_by_it():
    assert kind(Identity(macs=MACS[:1]), Identity(macs=MACS[:2])) == "same"
    assert kind(Identity(macs=MACS[:1]), SERVER) == "same"


def test_a_virtual_machine_is_known_by_uuid_and_mac():
    guest = Identity(uuid=UUID, macs=("52:54:00:00:00:01",))
    assert kind(guest, guest) == "same"
    assert kind(replace(guest, serials=("NEW-1",)), replace(guest, serials=("OLD-1",))) == "same"
    assert kind(Identity(uuid=UUID, serials=("NEW-1",)), Identity(uuid=UUID, serials=("OLD-1",))) == "conflict"


def test_a_card_that_moved_between_machines_that_tell_no_uuid():
    """ironic-python-agent tells none."""
    assert kind(Identity(serials=("A-1",), macs=MACS), Identity(serials=("B-2",), macs=MACS)) == "conflict"


# --- two machines -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("other", "word"),
    [
        pytest.param(Identity(uuid=UUID, macs=OTHER_MACS), "clones", id="the same UUID, other ports"),
        pytest.param(
            Identity(uuid=OTHER_UUID, serials=("TAG-1",), macs=OTHER_MACS), "clones", id="the same serial number"
        ),
        pytest.param(Identity(uuid=UUID, serials=("TAG-1",), macs=OTHER_MACS), "clones", id="both, other ports"),
        pytest.param(
            Identity(uuid=OTHER_UUID, serials=("X-9",), macs=MACS[:2]), "MAC address alone", id="a spoofed MAC"
        ),
        pytest.param(Identity(serials=("TAG-1",)), "too little", id="nothing but a serial number"),
    ],
)
def test_two_machines_are_not_merged_but_reported(other, word):
    found = recognise([known(SERVER, node="kvm-1")], other)
    assert (found.kind, found.machine, found.others) == ("conflict", None, ("m-000000000001",))
    assert any(word in reason for reason in found.reasons)
    assert any("kvm-1" in reason for reason in found.reasons)


def test_a_card_with_all_its_ports_does_not_carry_the_name_along():
    assert kind(
        Identity(uuid=OTHER_UUID, serials=("X-9",), macs=MACS), Identity(uuid=UUID, serials=("A-1",), macs=MACS)
    ) == ("conflict")


def test_blades_share_the_chassis_serial_number_and_are_new():
    first = Identity(uuid=UUID, serials=("BLADE-1", "CHASSIS"), macs=MACS[:2])
    second = Identity(uuid=OTHER_UUID, serials=("BLADE-2", "CHASSIS"), macs=OTHER_MACS[:2])
    found = recognise([known(first)], second)
    assert found.kind == "new"
    assert any("CHASSIS" in reason and "blades" in reason for reason in found.reasons)


def test_a_mac_of_two_known_machines_is_a_conflict():
    second = Identity(uuid=OTHER_UUID, serials=("X-9", "X-8"), macs=(MACS[0], OTHER_MACS[0]))
    found = recognise([known(SERVER, "m-1"), known(second, "m-2")], SERVER)
    assert (found.kind, found.others) == ("conflict", ("m-1", "m-2"))
    assert "more than one known machine" in found.reasons[0]


def test_fitting_two_known_machines_is_a_conflict():
    halves = [Identity(macs=MACS[:1]), Identity(macs=MACS[1:2])]
    assert kind(Identity(macs=MACS[:2]), *halves) == "conflict"


def test_what_is_retired_is_recognised_but_contradicts_nobody():
    retired = replace(known(SERVER), phase=Phase.RETIRED)
    assert recognise([retired], SERVER).machine == retired
    heir = Identity(uuid=OTHER_UUID, serials=("X-9",), macs=(*MACS[:1], *OTHER_MACS[:1]))
    found = recognise([retired], heir)
    assert found.kind == "new"
    assert "retired" in found.reasons[1]
    assert recognise([retired, known(heir, "m-2")], heir).kind == "same"


def test_a_stranger_is_new():
    assert kind(Identity(uuid=OTHER_UUID, serials=("X-9",), macs=OTHER_MACS), SERVER) == "new"


def test_a_machine_that_tells_nothing_is_a_conflict_and_gets_no_id():
    assert kind(Identity(), SERVER) == "conflict"
    with pytest.raises(HalliganError, match="nothing that tells it from others"):
        new_id(Identity())


# --- ids ----------------------------------------------------------------------------------------------------------


def test_the_id_is_twelve_hex_digits_and_stays():
    assert new_id(SERVER) == new_id(SERVER) == "m-" + new_id(SERVER)[2:]
    assert len(bytes.fromhex(new_id(SERVER)[2:])) == 6
    assert new_id(Identity(macs=("52:54:00:00:00:01",))) == "m-034c093e8ac3"  # sha256 of mac:52:54:00:00:00:01


def test_a_further_card_changes_no_id_and_clones_get_their_own():
    assert new_id(replace(SERVER, macs=MACS)) == new_id(SERVER)
    assert new_id(replace(SERVER, macs=OTHER_MACS)) != new_id(SERVER)
    assert new_id(replace(SERVER, uuid=OTHER_UUID)) != new_id(SERVER)


# --- properties ---------------------------------------------------------------------------------------------------

identities = st.builds(
    Identity,
    uuid=st.sampled_from(["", UUID, OTHER_UUID]),
    serials=st.lists(st.sampled_from(["A-1", "B-2", "C-3"]), unique=True).map(lambda s: tuple(sorted(s))),
    macs=st.lists(st.sampled_from([*MACS, *OTHER_MACS]), unique=True, max_size=4).map(lambda m: tuple(sorted(m))),
)


@given(identities, identities)
def test_comparing_is_symmetric(a, b):
    assert compare(a, b) == compare(b, a)


@given(identities, identities)
def test_machines_without_a_common_key_are_never_one(a, b):
    if not set(keys(a)) & set(keys(b)):
        assert compare(a, b).points == 0
        assert kind(a, b) in ({"new"} if keys(a) else {"conflict"})


@given(identities, identities)
def test_no_single_kind_wins_against_two(a, b):
    score = compare(a, b)
    agree = {key.partition(":")[0] for key in score.agree}
    if len(agree) == 1 and score.contradicting:
        assert not score.same


@given(identities)
def test_whoever_tells_a_mac_or_uuid_is_itself(a):
    if a.uuid or a.macs:
        assert compare(a, a).same
        assert recognise([known(a)], a).kind == "same"


@given(st.lists(identities, max_size=5), identities, st.randoms())
def test_the_order_of_the_known_decides_nothing(others, machine, random):
    states = [known(other, f"m-{at:012x}") for at, other in enumerate(others)]
    shuffled = list(states)
    random.shuffle(shuffled)
    assert recognise(states, machine) == recognise(shuffled, machine)


@given(st.lists(st.text(), max_size=4), st.text(), st.lists(st.text(max_size=20), max_size=4))
def test_any_text_makes_an_identity(serials, uuid, macs):
    found = make(uuid, serials, macs)
    again = make(found.uuid, found.serials, found.macs)
    assert (again.uuid, again.serials) == (found.uuid, found.serials)
