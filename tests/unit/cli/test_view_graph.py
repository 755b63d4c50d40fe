"""dot and Mermaid: whole texts of a tiny plan, and what hostile names do to them."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable

import pytest

from orchestrator.cli.views.diagram import Detail, Diagram, diagram
from orchestrator.cli.views.graph import dot, mermaid
from orchestrator.model import Barrier, BarrierId, Plan, Step, StepId
from orchestrator.plan import summarize

DOT = """\
digraph "Plan for lab" {
  rankdir=LR;
  node [shape=box, style="rounded,filled", fontname="sans-serif", fontsize=11];
  edge [color="#8a94a3", fontname="sans-serif", fontsize=9];
  "mariadb@db-1" [label="mariadb\\ndb-1", tooltip="mariadb: create\\ndb-1\\nnew node\\nERASES Data.", \
fillcolor="#d9f2e1", color="#2f8f57", penwidth="2.5", peripheries="2"];
  "database.mysql" [label="database.mysql", tooltip="database.mysql, provided by mariadb on 1 node", \
shape="ellipse", fillcolor="#f2f4f7", color="#8a94a3"];
  "keystone@ctl-1" [label="keystone\\nctl-1", tooltip="keystone: create\\nctl-1\\nnew node", \
fillcolor="#d9f2e1", color="#2f8f57", penwidth="2.5"];
  "database.mysql" -> "keystone@ctl-1" [penwidth="2.5", color="#1f2937"];
  "mariadb@db-1" -> "database.mysql" [penwidth="2.5", color="#1f2937"];
}
"""

MERMAID = """\
flowchart LR
  v1["mariadb<br/>db-1<br/>erases data"]:::create
  class v1 critical
  v2(["database.mysql"]):::barrier
  v3["keystone<br/>ctl-1"]:::create
  class v3 critical
  v2 ==> v3
  v1 ==> v2
  classDef create fill:#d9f2e1,stroke:#2f8f57,color:#1f2937
  classDef barrier fill:#f2f4f7,stroke:#8a94a3,color:#1f2937
  classDef critical stroke-width:3px
"""


@pytest.fixture
def picture(plan_of: Callable[..., Plan], step: Callable[..., Step]) -> Diagram:
    barrier = Barrier(id=BarrierId("database.mysql"), capability="database.mysql", needs=(StepId("mariadb@db-1"),))
    plan = plan_of(
        [step("mariadb@db-1", destroys="Data."), step("keystone@ctl-1", needs=("database.mysql",))], [barrier]
    )
    return diagram(plan, summarize(plan))


def test_dot(picture: Diagram) -> None:
    assert dot(picture) == DOT


def test_mermaid(picture: Diagram) -> None:
    assert mermaid(picture) == MERMAID


HOSTILE = 'end"; evil -> "x\\<script>&#'


def test_hostile_names_stay_text(plan_of: Callable[..., Plan], step: Callable[..., Step]) -> None:
    plan = plan_of([step(f"base@{HOSTILE}")])
    picture = diagram(plan, summarize(plan))
    assert '"base@end\\"; evil -> \\"x\\\\<script>&#" [label=' in dot(picture)
    assert 'v1["base<br/>end#34;#59; evil -#62; #34;x#92;#60;script#62;#38;#35;"]:::create' in mermaid(picture)


@pytest.mark.skipif(not shutil.which("dot"), reason="Graphviz is not installed")
@pytest.mark.parametrize("detail", list(Detail))
def test_graphviz_understands_it(small_plan: Plan, detail: Detail) -> None:
    text = dot(diagram(small_plan, summarize(small_plan), detail))
    subprocess.run(["dot", "-Tsvg"], input=text.encode(), check=True, capture_output=True)


def test_counts_of_folded_edges_are_labels(big_plan: Plan) -> None:
    picture = diagram(big_plan, summarize(big_plan))
    assert '"libvirt/compute/4" -> "nova/compute/8" [label="995"];' in dot(picture)
    assert "-->|995|" in mermaid(picture)
