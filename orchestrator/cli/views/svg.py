"""A plan's picture as one SVG that stands alone: waves as columns, light and dark, no script, nothing loaded."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator
from xml.sax.saxutils import escape, quoteattr

from orchestrator.cli.views.diagram import Diagram, Edge, Vertex
from orchestrator.cli.views.layout import Box, Placed, place
from orchestrator.cli.views.words import MARKS, count
from orchestrator.model import Action

__all__ = ["STYLE", "svg"]

MARGIN = 24.0
HEADER = 70.0  # room for the title and the waves' names
LEGEND = 44.0
LABELS = 'role="img" aria-labelledby="hg-title hg-desc"'
STEP_HEIGHT = 46.0
BARRIER_HEIGHT = 24.0

STYLE = """
.hg{--hg-paper:#fff;--hg-band:#f5f7fa;--hg-ink:#17202b;--hg-soft:#5b6776;--hg-rule:#aab4c0;--hg-hot:#d9480f;--hg-box:#fff;
--hg-create:#1f8a4d;--hg-update:#b7791f;--hg-remove:#c53030;--hg-check:#2b6cb0;--hg-mixed:#6b46c1;
font-family:system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif}
@media (prefers-color-scheme:dark){.hg{--hg-paper:#12171e;--hg-band:#181f28;--hg-ink:#e8edf3;--hg-soft:#98a5b5;
--hg-rule:#55616f;--hg-hot:#ff8f4d;--hg-box:#1d2530;
--hg-create:#4cc07d;--hg-update:#e0ac4f;--hg-remove:#f07878;--hg-check:#6cabec;--hg-mixed:#ab8bf0}}
.hg-paper{fill:var(--hg-paper)}.hg-band{fill:var(--hg-band)}
.hg text{fill:var(--hg-ink);font-size:13px}.hg .hg-head{font-size:16px;font-weight:650}
.hg .hg-soft{fill:var(--hg-soft);font-size:11.5px;font-weight:400}.hg .hg-wave{font-weight:600;font-size:12px}
.hg .hg-name{font-weight:600}.hg .hg-warn{fill:var(--hg-remove);font-weight:700}
.hg-box{fill:var(--hg-box);stroke:var(--hg-rule)}.hg-v:hover .hg-box{stroke:var(--hg-ink)}
.hg-pill{fill:var(--hg-band);stroke:var(--hg-rule);stroke-dasharray:3 2}
.hg-hot .hg-box{stroke:var(--hg-hot);stroke-width:2}
.hg-e{fill:none;stroke:var(--hg-rule)}.hg-e.hg-order{stroke-dasharray:5 4}
.hg-e.hg-hot{stroke:var(--hg-hot);stroke-width:2.2}
.hg-tip{fill:var(--hg-rule)}.hg-hot-tip{fill:var(--hg-hot)}
.hg-create{fill:var(--hg-create)}.hg-update{fill:var(--hg-update)}.hg-remove{fill:var(--hg-remove)}
.hg-check{fill:var(--hg-check)}.hg-mixed{fill:var(--hg-mixed)}
""".strip()


def svg(picture: Diagram) -> str:
    """Return the drawing, ending in a newline."""
    boxes = _boxes(picture)
    placed = place(boxes.values(), [(edge.source, edge.target) for edge in picture.edges])
    width = max(placed.width + 2 * MARGIN, 560.0)
    height = placed.height + 2 * MARGIN + HEADER + LEGEND
    steps: Counter[Action] = Counter()
    for vertex in picture.vertices:
        steps.update(vertex.counts)
    summary = f"{count(steps.total(), 'step')}, waves from left to right, arrows from what is needed to what needs it"
    size = f'width="{_n(width)}" height="{_n(height)}"'
    counts = f'<tspan class="hg-soft" dx="10">{escape(_counts(steps))}</tspan>'
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="hg" {size} viewBox="0 0 {_n(width)} {_n(height)}" {LABELS}>',
        f'<title id="hg-title">{escape(picture.title)}</title><desc id="hg-desc">{escape(summary)}</desc>',
        f"<style>{STYLE}</style>",
        f"<defs>{_arrow('hg-arrow', 'hg-tip')}{_arrow('hg-arrow-hot', 'hg-hot-tip')}</defs>",
        f'<rect class="hg-paper" {size}/>',
        f'<text class="hg-head" x="{_n(MARGIN)}" y="30">{escape(picture.title)}{counts}</text>',
        *_bands(picture, placed, height),
        f'<g transform="translate({_n(MARGIN)} {_n(MARGIN + HEADER)})">',
        *(_edge(edge, placed) for edge in picture.edges if not edge.critical),
        *(_edge(edge, placed) for edge in picture.edges if edge.critical),
        *(_vertex(vertex, boxes[vertex.id], placed) for vertex in picture.vertices),
        "</g>",
        _legend(picture, height - 18),
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _n(number: float) -> str:
    """Return a coordinate with at most one decimal, so that the text is short and the same everywhere."""
    return f"{number + 0.0:.1f}".removesuffix(".0")


def _counts(steps: Counter[Action]) -> str:
    return ", ".join(f"{steps[action]:,} to {action}" for action in Action if steps[action])


def _boxes(picture: Diagram) -> dict[str, Box]:
    """Return the boxes: barriers stand between waves, and the steps of one wave are equally wide."""
    widths: dict[int, float] = defaultdict(lambda: 104.0)
    for vertex in picture.vertices:
        if not vertex.is_barrier:
            widths[vertex.wave] = max(widths[vertex.wave], _width(vertex))
    return {
        vertex.id: Box(id=vertex.id, column=2 * vertex.wave + 1, width=_width(vertex), height=BARRIER_HEIGHT)
        if vertex.is_barrier
        else Box(id=vertex.id, column=2 * vertex.wave, width=widths[vertex.wave], height=STEP_HEIGHT)
        for vertex in picture.vertices
    }


def _width(vertex: Vertex) -> float:
    """Return a width that holds the text in any of the fonts; nobody can measure it here."""
    if vertex.is_barrier:
        return 28 + 6.7 * len(vertex.title)
    title = 8.2 * len(vertex.title) + (20 if vertex.destroys else 0)
    return 44 + max(title, 6.9 * len(vertex.subtitle))


def _arrow(name: str, style: str) -> str:
    return (
        f'<marker id="{name}" class="{style}" viewBox="0 0 8 8" refX="7.5" refY="4" markerWidth="8" markerHeight="8"'
        ' markerUnits="userSpaceOnUse" orient="auto"><path d="M0 0.8 8 4 0 7.2z"/></marker>'
    )


# --- waves --------------------------------------------------------------------------------------------------------


def _bands(picture: Diagram, placed: Placed, height: float) -> Iterator[str]:
    """Yield a shaded column and a heading per wave."""
    steps: dict[int, int] = defaultdict(int)
    for vertex in picture.vertices:
        steps[vertex.wave] += sum(vertex.counts.values())
    for wave in sorted(wave for wave, number in steps.items() if number):
        left, right = placed.columns[2 * wave]
        x, width = left + MARGIN - 12, right - left + 24
        yield (
            f'<rect class="hg-band" x="{_n(x)}" y="{_n(HEADER - 22)}" width="{_n(width)}"'
            f' height="{_n(height - HEADER - LEGEND + 22)}" rx="8"/>'
        )
        middle = x + width / 2
        yield (
            f'<text class="hg-wave" x="{_n(middle)}" y="{_n(HEADER - 2)}" text-anchor="middle">Wave {wave}</text>'
            f'<text class="hg-soft" x="{_n(middle)}" y="{_n(HEADER + 13)}" text-anchor="middle">'
            f"{count(steps[wave], 'step')}</text>"
        )


# --- vertices and edges -------------------------------------------------------------------------------------------


def _vertex(vertex: Vertex, box: Box, placed: Placed) -> str:
    x, y = placed.boxes[vertex.id]
    tip = f"<title>{escape(chr(10).join(vertex.tip))}</title>"
    body = _pill(vertex, box) if vertex.is_barrier else _card(vertex, box)
    names = "hg-v hg-hot" if vertex.critical else "hg-v"
    find = "" if vertex.is_barrier else f" data-role={quoteattr(vertex.title)} data-wave={quoteattr(str(vertex.wave))}"
    return f'<g class="{names}"{find} transform="translate({_n(x)} {_n(y)})">{tip}{body}</g>'


def _pill(vertex: Vertex, box: Box) -> str:
    return (
        f'<rect class="hg-pill" width="{_n(box.width)}" height="{_n(box.height)}" rx="{_n(box.height / 2)}"/>'
        f'<text class="hg-soft" x="{_n(box.width / 2)}" y="16" text-anchor="middle">{escape(vertex.title)}</text>'
    )


def _card(vertex: Vertex, box: Box) -> str:
    mark = MARKS[Action(vertex.action)] if vertex.action != "mixed" else "\N{PLUS-MINUS SIGN}"
    warning = (
        f'<text class="hg-warn" x="{_n(box.width - 16)}" y="20">!<title>erases data</title></text>'
        if vertex.destroys
        else ""
    )
    return (
        f'<rect class="hg-box" width="{_n(box.width)}" height="{_n(box.height)}" rx="7"/>'
        f'<circle class="hg-{vertex.action}" cx="18" cy="{_n(box.height / 2)}" r="9"/>'
        f'<text x="18" y="{_n(box.height / 2 + 4.5)}" text-anchor="middle" style="fill:var(--hg-box);font-weight:700">'
        f"{mark}</text>"
        f'<text class="hg-name" x="34" y="20">{escape(vertex.title)}</text>'
        f'<text class="hg-soft" x="34" y="36">{escape(vertex.subtitle)}</text>{warning}'
    )


def _edge(edge: Edge, placed: Placed) -> str:
    names = ["hg-e", *(["hg-order"] if edge.only_order else []), *(["hg-hot"] if edge.critical else [])]
    arrow = "hg-arrow-hot" if edge.critical else "hg-arrow"
    weight = "" if edge.critical else f' stroke-width="{_n(1 + math.log10(edge.count) * 0.4)}"'
    path = _path(placed.routes[edge.source, edge.target])
    return f'<path class="{" ".join(names)}"{weight} d="{path}" marker-end="url(#{arrow})"/>'


def _path(points: tuple[tuple[float, float], ...]) -> str:
    (x, y), *rest = points
    parts = [f"M{_n(x)} {_n(y)}"]
    for to_x, to_y in rest:
        if abs(to_y - y) < 0.1:
            parts.append(f"H{_n(to_x)}")
        else:
            bend = (to_x - x) / 2
            parts.append(f"C{_n(x + bend)} {_n(y)} {_n(to_x - bend)} {_n(to_y)} {_n(to_x)} {_n(to_y)}")
        x, y = to_x, to_y
    return "".join(parts)


# --- legend -------------------------------------------------------------------------------------------------------


def _legend(picture: Diagram, y: float) -> str:
    """Return one line that explains only what the picture shows."""
    x = MARGIN
    parts = []
    shown_actions = {vertex.action for vertex in picture.vertices}
    for action in (action for action in (*Action, "mixed") if action in shown_actions):
        parts.append(f'<circle class="hg-{action}" cx="{_n(x + 6)}" cy="{_n(y - 4)}" r="6"/>')
        parts.append(f'<text class="hg-soft" x="{_n(x + 17)}" y="{_n(y)}">{action}</text>')
        x += 40 + 6.2 * len(action)
    lines = [
        ("hg-e hg-hot", "longest chain", any(edge.critical for edge in picture.edges)),
        ("hg-e", "needs", any(not edge.only_order for edge in picture.edges)),
        ("hg-e hg-order", "order only", any(edge.only_order for edge in picture.edges)),
    ]
    for names, text, shown in lines:
        if shown:
            parts.append(f'<path class="{names}" d="M{_n(x)} {_n(y - 4)}h24"/>')
            parts.append(f'<text class="hg-soft" x="{_n(x + 30)}" y="{_n(y)}">{text}</text>')
            x += 48 + 5.8 * len(text)
    if any(vertex.is_barrier for vertex in picture.vertices):
        parts.append(f'<rect class="hg-pill" x="{_n(x)}" y="{_n(y - 11)}" width="24" height="14" rx="7"/>')
        parts.append(f'<text class="hg-soft" x="{_n(x + 30)}" y="{_n(y)}">capability</text>')
    return f"<g>{''.join(parts)}</g>"
