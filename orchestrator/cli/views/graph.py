"""A plan's picture as Graphviz dot or Mermaid text, for wikis, reviews and people with tools of their own."""

from __future__ import annotations

import re
from collections.abc import Iterator

from orchestrator.cli.views.diagram import Diagram, Edge, Vertex

__all__ = ["dot", "mermaid"]

_FILL = {"create": "#d9f2e1", "update": "#fdf0cc", "remove": "#fbdcda", "check": "#dcebfb", "mixed": "#ece4f7"}
_LINE = {"create": "#2f8f57", "update": "#b07d10", "remove": "#c23b34", "check": "#2f72b5", "mixed": "#7353a8"}


def dot(picture: Diagram) -> str:
    """Return a Graphviz digraph, left to right."""
    lines = [
        f"digraph {_quoted(picture.title)} {{",
        "  rankdir=LR;",
        '  node [shape=box, style="rounded,filled", fontname="sans-serif", fontsize=11];',
        '  edge [color="#8a94a3", fontname="sans-serif", fontsize=9];',
        *(f"  {_dot_vertex(vertex)}" for vertex in picture.vertices),
        *(f"  {_dot_edge(edge)}" for edge in picture.edges),
        "}",
    ]
    return "\n".join(lines) + "\n"


def _dot_vertex(vertex: Vertex) -> str:
    label = "\n".join(part for part in (vertex.title, vertex.subtitle) if part)
    attributes = {"label": label, "tooltip": "\n".join(vertex.tip)}
    if vertex.is_barrier:
        attributes |= {"shape": "ellipse", "fillcolor": "#f2f4f7", "color": "#8a94a3"}
    else:
        attributes |= {"fillcolor": _FILL[vertex.action], "color": _LINE[vertex.action]}
    if vertex.critical:
        attributes["penwidth"] = "2.5"
    if vertex.destroys:
        attributes["peripheries"] = "2"
    return f"{_quoted(vertex.id)} [{_attributes(attributes)}];"


def _dot_edge(edge: Edge) -> str:
    attributes = {
        **({"style": "dashed"} if edge.only_order else {}),
        **({"label": f"{edge.count:,}"} if edge.count > 1 else {}),
        **({"penwidth": "2.5", "color": "#1f2937"} if edge.critical else {}),
    }
    tail = f" [{_attributes(attributes)}]" if attributes else ""
    return f"{_quoted(edge.source)} -> {_quoted(edge.target)}{tail};"


def _attributes(attributes: dict[str, str]) -> str:
    return ", ".join(f"{name}={_quoted(value)}" for name, value in attributes.items())


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def mermaid(picture: Diagram) -> str:
    """Return a Mermaid flowchart. Vertices get short ids, because Mermaid reads some words and signs as syntax."""
    ids = {vertex.id: f"v{number}" for number, vertex in enumerate(picture.vertices, 1)}
    lines = ["flowchart LR"]
    lines += [f"  {line}" for line in _mermaid_vertices(picture, ids)]
    for edge in picture.edges:
        arrow = "-.->" if edge.only_order else "==>" if edge.critical else "-->"
        label = f"|{edge.count:,}|" if edge.count > 1 else ""
        lines.append(f"  {ids[edge.source]} {arrow}{label} {ids[edge.target]}")
    for name in sorted({vertex.action for vertex in picture.vertices if vertex.action}):
        lines.append(f"  classDef {name} fill:{_FILL[name]},stroke:{_LINE[name]},color:#1f2937")
    lines.append("  classDef barrier fill:#f2f4f7,stroke:#8a94a3,color:#1f2937")
    lines.append("  classDef critical stroke-width:3px")
    return "\n".join(lines) + "\n"


def _mermaid_vertices(picture: Diagram, ids: dict[str, str]) -> Iterator[str]:
    for vertex in picture.vertices:
        parts = [vertex.title, vertex.subtitle, "erases data" if vertex.destroys else ""]
        label = "<br/>".join(_entities(part) for part in parts if part)
        body = f'(["{label}"])' if vertex.is_barrier else f'["{label}"]'
        yield f"{ids[vertex.id]}{body}:::{vertex.action or 'barrier'}"
        if vertex.critical:
            yield f"class {ids[vertex.id]} critical"


def _entities(text: str) -> str:
    """Escape everything that Mermaid or the browser could take for markup."""
    return re.sub(r"[^\w .,:/()@+\N{MULTIPLICATION SIGN}-]", lambda match: f"#{ord(match[0])};", text)
