"""The drawing and its layout: nothing overlaps, everything is there, hostile names stay text."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from xml.etree import ElementTree

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.cli.views.diagram import Detail, diagram
from orchestrator.cli.views.layout import Box, place
from orchestrator.cli.views.svg import svg
from orchestrator.model import Plan, Step
from orchestrator.plan import summarize

NS = "{http://www.w3.org/2000/svg}"


def drawn(plan: Plan, detail: Detail = Detail.AUTO) -> str:
    return svg(diagram(plan, summarize(plan), detail))


def test_the_drawing_is_well_formed_and_whole(small_plan: Plan) -> None:
    root = ElementTree.fromstring(drawn(small_plan))
    texts = {element.text for element in root.iter(f"{NS}text")}
    assert {"Wave 1", "4 steps", "Wave 4", "mariadb", "old-1", "database.mysql", "longest chain"} <= texts
    assert len([element for element in root.iter(f"{NS}g") if "hg-v" in element.get("class", "")]) == 10


def test_tooltips_say_why(small_plan: Plan) -> None:
    titles = {element.text for element in ElementTree.fromstring(drawn(small_plan)).iter(f"{NS}title")}
    assert "keystone: update\nctl-1\ninput keystone_admin_url changed\nrole files changed" in titles


def test_it_loads_nothing(small_plan: Plan) -> None:
    text = drawn(small_plan)
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "")
    assert "<script" not in text


def test_hostile_names_stay_text(plan_of: Callable[..., Plan], step: Callable[..., Step]) -> None:
    name = '</title><script>alert("1")</script>&'
    root = ElementTree.fromstring(drawn(plan_of([step(f"base@{name}")])))
    assert name in {element.text for element in root.iter(f"{NS}text")}
    assert not list(root.iter(f"{NS}script"))


def test_the_same_plan_gives_the_same_drawing(big_plan: Plan) -> None:
    assert drawn(big_plan) == drawn(big_plan)


def test_the_legend_explains_only_what_is_there(plan_of: Callable[..., Plan], step: Callable[..., Step]) -> None:
    text = drawn(plan_of([step("base@a")]))
    assert ">create</text>" in text
    assert ">update</text>" not in text
    assert ">order only</text>" not in text


def test_ten_thousand_steps_can_be_drawn_one_by_one(big_plan: Plan) -> None:
    """The picture that nobody wants must come out, too: nothing in it may grow with the square of the steps."""
    assert drawn(big_plan, Detail.STEP).count('class="hg-v') == len(big_plan.steps) + 1


# --- layout -------------------------------------------------------------------------------------------------------


@st.composite
def graphs(draw: st.DrawFn) -> tuple[list[Box], list[tuple[str, str]]]:
    number = draw(st.integers(1, 14))
    boxes = [
        Box(id=str(n), column=draw(st.integers(0, 5)), width=draw(st.sampled_from([40.0, 90.0])), height=30.0)
        for n in range(number)
    ]
    pairs = [(a.id, b.id) for a, b in combinations(boxes, 2) if a.column != b.column]
    edges = draw(st.lists(st.sampled_from(pairs), unique=True, max_size=25)) if pairs else []
    column = {box.id: box.column for box in boxes}
    return boxes, [(a, b) if column[a] < column[b] else (b, a) for a, b in edges]


@given(graphs())
def test_boxes_never_overlap(graph: tuple[list[Box], list[tuple[str, str]]]) -> None:
    boxes, edges = graph
    placed = place(boxes, edges)
    for a, b in combinations(boxes, 2):
        (ax, ay), (bx, by) = placed.boxes[a.id], placed.boxes[b.id]
        apart = ax + a.width <= bx or bx + b.width <= ax or ay + a.height <= by or by + b.height <= ay
        assert apart, (a, b)


@given(graphs())
def test_edges_run_from_box_to_box_left_to_right(graph: tuple[list[Box], list[tuple[str, str]]]) -> None:
    boxes, edges = graph
    placed = place(boxes, edges)
    by_id = {box.id: box for box in boxes}
    for source, target in edges:
        points = placed.routes[source, target]
        assert points[0][0] == placed.boxes[source][0] + by_id[source].width
        assert points[-1][0] == placed.boxes[target][0]
        assert [x for x, _ in points] == sorted(x for x, _ in points)
        assert all(-1 <= y <= placed.height + 1 for _, y in points)


def test_crossings_that_can_be_avoided_are() -> None:
    """Two chains given crosswise come out as two straight lines."""
    boxes = [Box(id=name, column=int(name[1]), width=10, height=10) for name in ("a0", "b0", "b1", "a1", "a2", "b2")]
    edges = [("a0", "a1"), ("a1", "a2"), ("b0", "b1"), ("b1", "b2")]
    placed = place(boxes, edges)
    assert len({placed.boxes[name][1] for name in ("a0", "a1", "a2")}) == 1
    assert len({placed.boxes[name][1] for name in ("b0", "b1", "b2")}) == 1


def test_an_edge_against_the_columns_is_drawn_nevertheless() -> None:
    boxes = [Box(id="a", column=0, width=10, height=10), Box(id="b", column=1, width=10, height=10)]
    assert len(place(boxes, [("b", "a")]).routes["b", "a"]) == 2
