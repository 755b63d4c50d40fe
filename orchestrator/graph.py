"""A generic directed acyclic graph of ids: order, waves, paths, cycles. Knows nothing of steps or roles.

Plain dictionaries: every plan walks 100,000 ids a few times. Only who has a cycle to name needs networkx, and pays the
quarter of a second that its import costs.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import NamedTuple

__all__ = ["Graph", "ancestors", "build", "critical_path", "cycle", "descendants", "order", "remaining", "waves"]


class Graph(NamedTuple):
    """The neighbours of every id in both directions, each once, in the order in which they were named."""

    pred: Mapping[str, Collection[str]]
    succ: Mapping[str, Collection[str]]


def build(needs: Mapping[str, Iterable[str]]) -> Graph:
    """Return the graph with an edge from each needed id to the id that needs it."""
    pred: dict[str, tuple[str, ...]] = {node: tuple(dict.fromkeys(wanted)) for node, wanted in needs.items()}
    succ: dict[str, list[str]] = {node: [] for node in needs}
    for node in needs:
        for need in pred[node]:
            if need not in succ:
                pred[need], succ[need] = (), []
            succ[need].append(node)
    return Graph(pred, succ)


def cycle(graph: Graph) -> tuple[str, ...]:
    """Return the ids of one cycle, each needing the one before it, the first repeated at the end; empty if none."""
    if len(order(graph)) == len(graph.pred):
        return ()
    import networkx as nx

    found: nx.DiGraph[str] = nx.DiGraph()
    found.add_nodes_from(graph.pred)
    found.add_edges_from((need, node) for node, wanted in graph.pred.items() for need in wanted)
    edges = nx.find_cycle(found)
    return (*(str(edge[0]) for edge in edges), str(edges[0][0]))


def order(graph: Graph) -> list[str]:
    """Return all ids, needed ones first; without those that are in a cycle or behind one."""
    unmet = {node: len(wanted) for node, wanted in graph.pred.items()}
    ordered = [node for node, count in unmet.items() if not count]
    for node in ordered:  # grows while it is walked
        for after in graph.succ[node]:
            unmet[after] -= 1
            if not unmet[after]:
                ordered.append(after)
    return ordered


def waves(graph: Graph, counts: Callable[[str], bool]) -> dict[str, int]:
    """Return the wave of every id: one more than the latest of its needs; ids that do not count add no wave."""
    level: dict[str, int] = {}
    predecessors = graph.pred
    for node in order(graph):
        before = max((level[need] for need in predecessors[node]), default=0)
        level[node] = before + 1 if counts(node) else before
    return level


def critical_path(graph: Graph, weight: Callable[[str], float]) -> tuple[float, tuple[str, ...]]:
    """Return the longest chain by total weight, and that weight. Ties go to the smaller id, so it is stable."""
    best: dict[str, tuple[float, str]] = {}
    predecessors = graph.pred
    for node in order(graph):
        start, via = max(((best[need][0], need) for need in predecessors[node]), default=(0.0, ""))
        best[node] = (start + weight(node), via)
    if not best:
        return 0.0, ()
    end = max(best, key=lambda node: (best[node][0], node))
    path = [end]
    while best[path[-1]][1]:
        path.append(best[path[-1]][1])
    return best[end][0], tuple(reversed(path))


def remaining(graph: Graph, weight: Callable[[str], float]) -> dict[str, float]:
    """Return for every id the weight of the longest chain from it, itself included, to an end."""
    longest: dict[str, float] = {}
    successors = graph.succ
    for node in reversed(order(graph)):
        longest[node] = weight(node) + max((longest[after] for after in successors[node]), default=0.0)
    return longest


def ancestors(graph: Graph, ids: Iterable[str]) -> set[str]:
    """Return everything that the ids need, directly or not, without the ids themselves."""
    return _reach(graph.pred, ids)


def descendants(graph: Graph, ids: Iterable[str]) -> set[str]:
    """Return everything that needs the ids, directly or not, without the ids themselves."""
    return _reach(graph.succ, ids)


def _reach(adjacent: Mapping[str, Iterable[str]], ids: Iterable[str]) -> set[str]:
    start = set(ids)
    seen: set[str] = set()
    todo = list(start)
    while todo:
        for near in adjacent[todo.pop()]:
            if near not in seen:
                seen.add(near)
                todo.append(near)
    return seen - start
