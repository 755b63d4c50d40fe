"""Places boxes in columns so that arrows run left to right and cross little; pure geometry, knows nothing of plans.

Three steps, as Sugiyama, Tagawa and Toda described them in 1981: an edge that passes columns gets a waypoint in each of
them; the order inside each column is improved by sweeps of barycentres (the best one seen is kept); and then boxes move
as close to the middle of their neighbours as their order and their gaps allow.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

__all__ = ["Box", "Placed", "place"]

SWEEPS = 12
PULLS = 10
GAP_X = 54.0
GAP_Y = 14.0

_Id = tuple[str, str, int]  # (vertex, "", -1), or (source, target, column) of a waypoint
_Near = Mapping[_Id, Sequence[_Id]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    id: str
    column: int  # columns count from 0 and may be any numbers; they are used in their order
    width: float
    height: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """Upper left corner of each box, the points each edge runs through, column spans, and the size of it all."""

    boxes: Mapping[str, tuple[float, float]]
    routes: Mapping[tuple[str, str], tuple[tuple[float, float], ...]]
    columns: Mapping[int, tuple[float, float]]  # column -> (left, right)
    width: float
    height: float


def place(boxes: Iterable[Box], edges: Iterable[tuple[str, str]]) -> Placed:
    """Return where everything goes. Edges that do not run to a later column get a straight route."""
    by_id = {box.id: box for box in boxes}
    rank = {column: number for number, column in enumerate(sorted({box.column for box in by_id.values()}))}
    column_of = {box.id: rank[box.column] for box in by_id.values()}
    forward = [(a, b) for a, b in edges if column_of[a] < column_of[b]]
    chains = {(a, b): _chain(a, b, column_of) for a, b in forward}
    columns = _columns(by_id, column_of, chains.values())
    before, after = _neighbours(chains.values())
    columns = _ordered(columns, before, after)
    heights = {point: by_id[point[0]].height if point[2] < 0 else 0.0 for column in columns for point in column}
    middles = _pulled(columns, heights, before, after)
    spans = _spans(columns, by_id)
    return _placed(by_id, rank, chains, edges, middles, spans)


def _vertex(name: str) -> _Id:
    return (name, "", -1)


def _chain(source: str, target: str, column_of: Mapping[str, int]) -> list[_Id]:
    """Return the edge's points: its ends, and a waypoint in every column between."""
    waypoints = [(source, target, column) for column in range(column_of[source] + 1, column_of[target])]
    return [_vertex(source), *waypoints, _vertex(target)]


def _columns(
    boxes: Mapping[str, Box], column_of: Mapping[str, int], chains: Iterable[Sequence[_Id]]
) -> list[list[_Id]]:
    columns: list[list[_Id]] = [[] for _ in range(max(column_of.values(), default=-1) + 1)]
    for name in boxes:
        columns[column_of[name]].append(_vertex(name))
    for chain in chains:
        for point in chain[1:-1]:
            columns[point[2]].append(point)
    return columns


def _neighbours(chains: Iterable[Sequence[_Id]]) -> tuple[_Near, _Near]:
    before: dict[_Id, list[_Id]] = defaultdict(list)
    after: dict[_Id, list[_Id]] = defaultdict(list)
    for chain in chains:
        for left, right in pairwise(chain):
            before[right].append(left)
            after[left].append(right)
    return before, after


# --- order --------------------------------------------------------------------------------------------------------


def _ordered(columns: list[list[_Id]], before: _Near, after: _Near) -> list[list[_Id]]:
    best, fewest = columns, _crossings(columns, after)
    for sweep in range(SWEEPS):
        if not fewest:
            break
        columns = _sweep(columns, before) if sweep % 2 == 0 else _sweep(columns[::-1], after)[::-1]
        crossings = _crossings(columns, after)
        if crossings < fewest:
            best, fewest = columns, crossings
    return best


def _sweep(columns: Sequence[Sequence[_Id]], near: _Near) -> list[list[_Id]]:
    """Sort each column by the mean position of its neighbours in the one before; ties keep their order."""
    swept: list[list[_Id]] = [list(columns[0])] if columns else []
    for column in columns[1:]:
        position = {point: float(index) for index, point in enumerate(swept[-1])}
        scale = len(swept[-1]) / max(len(column), 1)
        keys = {}
        for index, point in enumerate(column):
            places = [position[other] for other in near.get(point, ()) if other in position]
            keys[point] = sum(places) / len(places) if places else index * scale
        swept.append(sorted(column, key=keys.__getitem__))
    return swept


def _crossings(columns: Sequence[Sequence[_Id]], after: _Near) -> int:
    """Count the pairs of edges between adjacent columns that cross."""
    total = 0
    for left, right in pairwise(columns):
        position = {point: index for index, point in enumerate(right)}
        ends: list[int] = []
        for point in left:
            mine = [position[other] for other in after.get(point, ())]
            total += sum(len(ends) - bisect_right(ends, end) for end in mine)
            for end in mine:
                insort(ends, end)
    return total


# --- positions ----------------------------------------------------------------------------------------------------


def _pulled(
    columns: Sequence[Sequence[_Id]], heights: Mapping[_Id, float], before: _Near, after: _Near
) -> dict[_Id, float]:
    """Return the middle of every point on the vertical axis."""
    middles: dict[_Id, float] = {}
    for column in columns:
        stack = _stacked(column, heights)
        shift = (stack[-1] if stack else 0.0) / 2
        middles.update(zip(column, (middle - shift for middle in stack), strict=True))
    for pull in range(PULLS):
        near, order = (before, columns) if pull % 2 == 0 else (after, columns[::-1])
        for column in order:
            wished = []
            for point in column:
                others = [middles[other] for other in near.get(point, ())]
                wished.append(sum(others) / len(others) if others else middles[point])
            middles.update(zip(column, _apart(wished, _stacked(column, heights)), strict=True))
    top = min((middle - heights[point] / 2 for point, middle in middles.items()), default=0.0)
    return {point: middle - top for point, middle in middles.items()}


def _stacked(column: Sequence[_Id], heights: Mapping[_Id, float]) -> list[float]:
    """Return the middles of a column whose points stand as close as their heights and the gap allow."""
    middles: list[float] = []
    for index, point in enumerate(column):
        previous = column[index - 1] if index else point
        step = (heights[previous] + heights[point]) / 2 + GAP_Y if index else 0.0
        middles.append((middles[-1] if middles else 0.0) + step)
    return middles


def _apart(wished: Sequence[float], stack: Sequence[float]) -> list[float]:
    """Return the positions nearest to the wished ones that keep the stack's order and distances.

    Less the stack, positions must not fall; the nearest such series joins neighbours that do into blocks at their mean.
    """
    blocks: list[tuple[float, int]] = []  # (mean, size)
    for wish, offset in zip(wished, stack, strict=True):
        mean, size = wish - offset, 1
        while blocks and blocks[-1][0] > mean:
            other, number = blocks.pop()
            mean, size = (mean * size + other * number) / (size + number), size + number
        blocks.append((mean, size))
    levels = [mean for mean, size in blocks for _ in range(size)]
    return [level + offset for level, offset in zip(levels, stack, strict=True)]


def _spans(columns: Sequence[Sequence[_Id]], boxes: Mapping[str, Box]) -> list[tuple[float, float]]:
    spans: list[tuple[float, float]] = []
    left = 0.0
    for column in columns:
        width = max((boxes[point[0]].width for point in column if point[2] < 0), default=0.0)
        spans.append((left, left + width))
        left += width + GAP_X
    return spans


# --- the result ---------------------------------------------------------------------------------------------------


def _placed(
    boxes: Mapping[str, Box],
    rank: Mapping[int, int],
    chains: Mapping[tuple[str, str], Sequence[_Id]],
    edges: Iterable[tuple[str, str]],
    middles: Mapping[_Id, float],
    spans: Sequence[tuple[float, float]],
) -> Placed:
    corners: dict[str, tuple[float, float]] = {}
    for box in boxes.values():
        left, right = spans[rank[box.column]]
        corners[box.id] = ((left + right - box.width) / 2, middles[_vertex(box.id)] - box.height / 2)
    routes = {}
    for source, target in edges:
        start = (corners[source][0] + boxes[source].width, middles[_vertex(source)])
        end = (corners[target][0], middles[_vertex(target)])
        between = [(x, middles[point]) for point in chains.get((source, target), ())[1:-1] for x in spans[point[2]]]
        routes[source, target] = (start, *between, end)
    return Placed(
        boxes=corners,
        routes=routes,
        columns={column: spans[number] for column, number in rank.items()},
        width=spans[-1][1] if spans else 0.0,
        height=max(
            (
                *(corners[box.id][1] + box.height for box in boxes.values()),
                *(y for route in routes.values() for _, y in route),
            ),
            default=0.0,
        ),
    )
