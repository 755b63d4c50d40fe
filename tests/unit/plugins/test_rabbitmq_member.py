"""When a RabbitMQ server starts, joins, forgets or refuses."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from plugins.modules.rabbitmq_member import Action, Cluster, Own, Peer, after_start, before_start, parse_status

ONE, TWO, THREE, OLD = "rabbit@ctl-1", "rabbit@ctl-2", "rabbit@ctl-3", "rabbit@ctl-9"
ALL = frozenset((ONE, TWO, THREE))
PAIR = frozenset((TWO, THREE))
ALONE = Own(ONE, Cluster(frozenset((ONE,)), frozenset((ONE,))))
MEMBER = Own(ONE, Cluster(ALL, ALL))
FRESH = Own(ONE, None, fresh=True)
DOWN, SILENT = Peer("down"), Peer("silent")
UP = Peer("up", Cluster(PAIR, PAIR))
KNOWS = Peer("up", Cluster(ALL, PAIR))


def first(own: Own, two: Peer, three: Peer) -> str:
    action = before_start(own, {TWO: two, THREE: three})
    return action.verb if action else "nothing"


@pytest.mark.parametrize(
    ("own", "two", "three", "verb"),
    [
        (MEMBER, UP, UP, "nothing"),
        (FRESH, DOWN, DOWN, "start"),  # the very first one
        (FRESH, UP, SILENT, "start"),
        (FRESH, DOWN, SILENT, "refuse"),
        (FRESH, KNOWS, KNOWS, "forget_there"),  # its disk was replaced
        (replace(FRESH, fresh=False), KNOWS, KNOWS, "start"),  # it only was stopped
        (replace(FRESH, fresh=False), SILENT, SILENT, "start"),
    ],
)
def test_before_the_start(own: Own, two: Peer, three: Peer, verb: str) -> None:
    assert first(own, two, three) == verb


def test_an_empty_server_joins_the_larger_cluster() -> None:
    single = Peer("up", Cluster(frozenset((TWO,)), frozenset((TWO,))))
    three = Peer("up", Cluster(frozenset((THREE, OLD)), frozenset((THREE,))))
    assert after_start(ALONE, {TWO: single, THREE: three}) == [Action("join", at=THREE)]
    assert after_start(ALONE, {TWO: single, THREE: DOWN}) == [Action("join", at=TWO)]


def test_a_server_with_queues_is_never_reset() -> None:
    (action,) = after_start(replace(ALONE, queues=2), {TWO: UP, THREE: UP})
    assert (action.verb, "2 queues" in action.reason, bool(action.hint)) == ("refuse", True, True)


def test_the_first_one_waits_for_others_to_join_it() -> None:
    assert after_start(replace(ALONE, queues=2), {TWO: DOWN, THREE: SILENT}) == []


def test_a_member_that_is_gone_from_the_site_and_stopped_is_forgotten() -> None:
    known = ALL | {OLD}
    peers = {TWO: UP, THREE: DOWN}
    assert after_start(Own(ONE, Cluster(known, ALL)), peers) == [Action("forget", at=OLD)]
    assert after_start(Own(ONE, Cluster(known, known)), peers) == []  # it still runs


def test_a_member_that_only_stopped_is_kept() -> None:
    assert after_start(Own(ONE, Cluster(ALL, frozenset((ONE,)))), {TWO: DOWN, THREE: SILENT}) == []


def test_the_status_as_rabbitmqctl_prints_it() -> None:
    told = {"disk_nodes": [ONE, TWO], "ram_nodes": [], "running_nodes": [ONE]}
    assert parse_status(json.dumps(told)) == Cluster(frozenset((ONE, TWO)), frozenset((ONE,)))
    assert parse_status("Error: unable to perform an operation on node") is None
