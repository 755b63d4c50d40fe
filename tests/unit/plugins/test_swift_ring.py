"""Which commands lead from a ring to the wanted one, and when it is rebalanced."""

from __future__ import annotations

from array import array

import pytest

from plugins.modules.swift_ring import UnwantedError, balance, copies_changed, due, steps

NOW = 1_000_000
HOUR = 3600


def device(address="10.0.0.1", name="d1", zone=1, weight=100.0):
    return {"address": address, "device": name, "region": 1, "zone": zone, "weight": weight}


def wanted(*devices, **others):
    return {"part_power": 2, "replicas": 1, "min_part_hours": 1, "port": 6200, "devices": list(devices), **others}


def state(*devices, parts=(), moved=0, **others):
    """A builder's content: devices by their number, and which of them holds each partition."""
    devs = [
        one and {**one, "id": number, "ip": one["address"], "port": 6200, "replication_port": 6200}
        for number, one in enumerate(devices)
    ]
    plain = {"part_power": 2, "parts": 4, "replicas": 1.0, "min_part_hours": 1, "devs": devs, "devs_changed": False}
    plain |= {
        "_remove_devs": [],
        "_last_part_moves_epoch": moved,
        "_replica2part2dev": [array("H", parts)] if parts else None,
    }
    return {**plain, **others}


def test_makes_a_ring():
    """Without a builder one is made, and every device is added with all that Swift asks for."""
    create, add = steps(None, wanted(device(zone=2)))
    assert create == ["create", "2", "1", "1"]
    assert add[0] == "add"
    assert dict(zip(add[1::2], add[2::2], strict=True)) == {
        "--region": "1",
        "--zone": "2",
        "--ip": "10.0.0.1",
        "--port": "6200",
        "--replication-ip": "10.0.0.1",
        "--replication-port": "6200",
        "--device": "d1",
        "--weight": "100.0",
    }


def test_leaves_a_ring_as_it_is():
    """Nothing is done for what is there already, in whatever order it is listed."""
    there = state(device(), device(name="d2"))
    assert steps(there, wanted(device(name="d2"), device())) == []


@pytest.mark.parametrize(
    ("devices", "others", "commands"),
    [
        ([device(weight=50.0)], {}, [["set_weight", "d0", "50.0", "--yes"]]),
        ([device(zone=3)], {}, [["set_zone", "d0", "3", "--yes"]]),
        ([device()], {"replicas": 2}, [["set_replicas", "2"]]),
        ([device()], {"min_part_hours": 5}, [["set_min_part_hours", "5"]]),
        ([], {}, [["remove", "d0", "--yes"]]),
    ],
)
def test_changes_what_differs(devices, others, commands):
    """One command for each difference."""
    assert steps(state(device()), wanted(*devices, **others)) == commands


def test_a_device_that_leaves_is_gone():
    """A device that goes with the next rebalance is not removed again; one of its place is a new one."""
    there = state(device(), device(name="d2"))
    there["_remove_devs"] = [there["devs"][0]]
    assert steps(there, wanted(device(name="d2"))) == []
    assert [words[0] for words in steps(there, wanted(device(), device(name="d2")))] == ["add"]


def test_a_hole_is_no_device():
    """Numbers of devices that left long ago stay empty."""
    assert steps(state(None, device()), wanted(device())) == []


@pytest.mark.parametrize("others", [{"part_power": 3}, {"port": 6201}])
def test_refuses_what_would_lose_data(others):
    """What every object's place follows from cannot be changed."""
    with pytest.raises(UnwantedError, match="set it back"):
        steps(state(device()), wanted(device(), **others))


@pytest.mark.parametrize(
    ("parts", "weights", "percent"),
    [
        ((0, 0, 1, 1), (100, 100), 0.0),
        ((0, 0, 0, 1), (100, 100), 50.0),
        ((0, 0, 0, 1), (300, 100), 0.0),
        ((0, 0, 0, 1), (100, 0), 999.99),
    ],
)
def test_balance_is_the_worst_devices(parts, weights, percent):
    """The share of a device follows from its weight."""
    devices = [device(name=f"d{number}", weight=weight) for number, weight in enumerate(weights)]
    assert balance(state(*devices, parts=parts)) == percent


@pytest.mark.parametrize(
    ("others", "expected"),
    [
        ({"parts": (0, 0, 1, 1)}, False),
        ({"parts": (0, 0, 1, 1), "devs_changed": True}, True),
        ({}, True),  # never rebalanced
        ({"parts": (0, 0, 0, 1), "moved": NOW - HOUR + 1}, False),  # what is left may not move yet
        ({"parts": (0, 0, 0, 1), "moved": NOW - HOUR}, True),
    ],
)
def test_rebalances_when_it_is_due(others, expected):
    """After a change, and when the last time left something undone that may be done now."""
    assert due(state(device(), device(name="d2"), **others), NOW) is expected


def test_another_number_of_copies_is_saved_in_any_case():
    """Fewer copies move no partition, and Swift would not save the ring."""
    two = {"_replica2part2dev": [array("H", (0, 0, 1, 1)), array("H", (1, 1, 0, 0))]}
    assert copies_changed(state(device(), replicas=1.0, **two))
    assert not copies_changed(state(device(), replicas=2.0, **two))
    assert not copies_changed(state(device()))
