"""When a Galera member joins, begins a cluster, waits or refuses."""

from __future__ import annotations

from dataclasses import replace

import pytest

from plugins.modules.galera_member import (
    NOBODY,
    Own,
    Peer,
    Status,
    decide,
    option_file,
    parse_grastate,
    parse_position,
    parse_status,
)

OURS, THEIRS = "4f3c1d20-0000-11ee-8000-000000000001", "99999999-0000-11ee-8000-000000000002"
SYNCED = Status("Primary", OURS, "Synced", 3)
FRESH = Own(running=False)
MEMBER = Own(running=True, status=SYNCED, uuid=OURS, databases=("keystone",))
STOPPED = Own(running=False, uuid=OURS, databases=("keystone",))
SINGLE = Own(running=True, databases=("keystone",))
UP, CLOSED, SILENT, ALONE = Peer("member", SYNCED), Peer("closed"), Peer("silent"), Peer("alone")
MINORITY = Peer("member", Status("non-Primary", OURS, "Initialized", 1))


def decided(own: Own, two: Peer, three: Peer, *, restart: bool = False, recover_from: str = "") -> str:
    return decide("ctl-1", own, {"ctl-2": two, "ctl-3": three}, restart=restart, recover_from=recover_from).action


@pytest.mark.parametrize(
    ("own", "two", "three", "action"),
    [
        (FRESH, CLOSED, CLOSED, "bootstrap"),  # the very first one
        (FRESH, UP, CLOSED, "join"),
        (FRESH, CLOSED, UP, "join"),
        (FRESH, SILENT, UP, "join"),
        (FRESH, CLOSED, SILENT, "refuse"),  # it may run there
        (FRESH, CLOSED, ALONE, "refuse"),  # the data are there
        (FRESH, MINORITY, CLOSED, "wait"),
        (MEMBER, UP, UP, "none"),
        (MEMBER, SILENT, UP, "none"),
        (replace(MEMBER, status=Status("non-Primary", OURS, "Initialized", 1)), SILENT, SILENT, "wait"),
        (replace(MEMBER, status=Status("Disconnected")), UP, UP, "join"),  # thrown out
        (replace(MEMBER, status=Status("Disconnected")), CLOSED, CLOSED, "refuse"),
        (STOPPED, UP, UP, "join"),
        (STOPPED, CLOSED, CLOSED, "refuse"),  # it was not the last
        (replace(STOPPED, crashed=True), CLOSED, CLOSED, "wait"),  # those that crashed with it know it
        (replace(STOPPED, crashed=True), SILENT, CLOSED, "wait"),
        (replace(STOPPED, safe=True), CLOSED, CLOSED, "bootstrap"),
        (replace(STOPPED, safe=True), SILENT, CLOSED, "refuse"),
        (replace(STOPPED, safe=True), UP, CLOSED, "join"),  # whatever it noted: never a second cluster
        (replace(STOPPED, uuid=THEIRS), UP, UP, "refuse"),  # data of another cluster
        (SINGLE, CLOSED, CLOSED, "bootstrap"),  # a single server becomes the first member
        (SINGLE, SILENT, CLOSED, "bootstrap"),
        (SINGLE, UP, CLOSED, "refuse"),  # its databases would be erased
        (replace(SINGLE, databases=()), UP, CLOSED, "join"),
        (replace(SINGLE, running=False), CLOSED, CLOSED, "bootstrap"),
        (replace(SINGLE, running=False), UP, CLOSED, "refuse"),
        (replace(SINGLE, uuid=OURS), UP, CLOSED, "refuse"),  # a member once, then alone
    ],
)
def test_what_a_member_does(own: Own, two: Peer, three: Peer, action: str) -> None:
    assert decided(own, two, three) == action


@pytest.mark.parametrize("own", [FRESH, STOPPED, SINGLE, replace(STOPPED, safe=True), MEMBER])
@pytest.mark.parametrize("recover_from", ["", "ctl-1", "ctl-2"])
@pytest.mark.parametrize("restart", [False, True])
def test_nothing_begins_a_second_cluster(own: Own, recover_from: str, restart: bool) -> None:
    assert decided(own, CLOSED, UP, restart=restart, recover_from=recover_from) != "bootstrap"


def test_a_restart_joins_the_others_again_or_goes_on_alone() -> None:
    assert decided(MEMBER, UP, SILENT, restart=True) == "join"
    assert decided(MEMBER, CLOSED, SILENT, restart=True) == "bootstrap"


def test_a_member_without_majority_is_not_restarted() -> None:
    lost = replace(MEMBER, status=Status("non-Primary", OURS, "Initialized", 1))
    assert decided(lost, SILENT, SILENT, restart=True) == "wait"


def test_the_site_says_where_a_crashed_cluster_begins_again() -> None:
    assert decided(STOPPED, CLOSED, SILENT, recover_from="ctl-1") == "bootstrap"
    other = decide("ctl-1", STOPPED, {"ctl-2": CLOSED}, restart=False, recover_from="ctl-2")
    assert (other.action, "--node ctl-2" in other.hint) == ("refuse", True)


def test_refusals_say_what_to_do() -> None:
    for own, peer in [(FRESH, SILENT), (FRESH, ALONE), (SINGLE, UP), (replace(STOPPED, uuid=THEIRS), UP)]:
        decision = decide("ctl-1", own, {"ctl-2": peer}, restart=False, recover_from="")
        assert decision.action == "refuse"
        assert "ctl-2" in decision.reason
        assert decision.hint


def test_the_status_of_a_member_and_of_a_server_alone() -> None:
    lines = [
        f"wsrep_cluster_state_uuid\t{OURS}",
        "wsrep_cluster_status\tPrimary",
        "wsrep_cluster_size\t3",
        "wsrep_local_state_comment\tSynced",
    ]
    assert parse_status("\n".join([*lines, "wsrep_provider\t/usr/lib/galera/libgalera_smm.so"])) == SYNCED
    assert parse_status("wsrep_cluster_status\tDisconnected\nwsrep_provider\tnone") == Status()
    assert parse_status("") == Status()


def test_the_notes_of_a_member() -> None:
    text = f"# GALERA saved state\nversion: 2.1\nuuid:    {OURS}\nseqno:   -1\nsafe_to_bootstrap: 1\n"
    assert parse_grastate(text) == (OURS, True)
    assert parse_grastate("") == (NOBODY, False)


def test_the_position_of_a_stopped_member() -> None:
    log = f"2026-01-01 [Note] WSREP: Recovered position: {OURS}:42"
    assert parse_position(f"x\n{log}\ny") == f"{OURS}:42"
    assert parse_position("nothing") == "unknown"


def test_a_password_survives_the_option_file() -> None:
    assert option_file('a"b\\c') == '[client]\npassword="a\\"b\\\\c"\n'
