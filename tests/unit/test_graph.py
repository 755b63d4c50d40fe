"""The graph: order, waves, paths and cycles, against networkx where it knows the same."""

from __future__ import annotations

from itertools import pairwise

import networkx as nx
from hypothesis import given
from hypothesis import strategies as st

from orchestrator import graph

NEEDS = {"web": ["db", "cache", "db"], "db": ["disk"], "cache": ["disk"], "lonely": []}


def test_ids_that_are_only_needed_are_in_the_graph_and_edges_count_once():
    built = graph.build(NEEDS)
    assert set(built.pred) == {"web", "db", "cache", "disk", "lonely"}
    assert built.pred["web"] == ("db", "cache")
    assert list(built.succ["disk"]) == ["db", "cache"]


def test_order_waves_and_reach():
    built = graph.build(NEEDS)
    assert graph.order(built) == ["lonely", "disk", "db", "cache", "web"]
    assert graph.waves(built, lambda node: node != "cache") == {"lonely": 1, "disk": 1, "db": 2, "cache": 1, "web": 3}
    assert graph.ancestors(built, ["web"]) == {"db", "cache", "disk"}
    assert graph.descendants(built, ["disk"]) == {"db", "cache", "web"}


def test_the_longest_chain_and_what_remains_of_it():
    built, weight = graph.build(NEEDS), {"disk": 1.0, "db": 5.0, "cache": 2.0, "web": 1.0, "lonely": 3.0}
    assert graph.critical_path(built, weight.__getitem__) == (7.0, ("disk", "db", "web"))
    assert graph.remaining(built, weight.__getitem__) == {"web": 1, "db": 6, "cache": 3, "disk": 7, "lonely": 3}


def test_a_cycle_is_named_in_the_order_of_need():
    assert graph.cycle(graph.build(NEEDS)) == ()
    found = graph.cycle(graph.build({"a": ["c"], "b": ["a"], "c": ["b"], "d": ["a"]}))
    assert found[0] == found[-1]
    assert "".join(found) in "abcabc"


@given(st.dictionaries(st.integers(0, 9).map(str), st.lists(st.integers(0, 9).map(str), max_size=4), max_size=9))
def test_order_and_cycles_are_those_of_networkx(needs):
    built = graph.build(needs)
    other = nx.DiGraph()
    other.add_nodes_from(needs)
    other.add_edges_from((need, node) for node, wanted in needs.items() for need in wanted)
    acyclic = nx.is_directed_acyclic_graph(other)
    assert (graph.cycle(built) == ()) is acyclic
    if acyclic:
        assert graph.order(built) == list(nx.topological_sort(other))
    else:
        cycle = graph.cycle(built)
        assert all(one in built.pred[two] for one, two in pairwise(cycle))
