"""halligan plan SITE"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

import click

from orchestrator.cli.door import SITE, Door, pass_door, select_options, selection, show, tell_warnings, write_file
from orchestrator.cli.ending import FOUND
from orchestrator.cli.views.words import Look

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orchestrator.model import Plan
    from orchestrator.plan import Selection, Summary

FORMATS = ("text", "json", "dot", "mermaid", "svg", "html")


@click.command()
@click.argument("site", type=SITE)
@click.option(
    "--out",
    metavar="FILE",
    default="",
    help="Save the plan for `halligan apply FILE`; with another --format, save that.",
)
@click.option("--format", "kind", type=click.Choice(FORMATS), default="text", show_default=True)
@click.option(
    "--detail",
    type=click.Choice(("auto", "role", "step")),
    default="auto",
    show_default=True,
    help="Of a picture: a vertex per step, or per role and group with counts; auto folds above 60 steps.",
)
@click.option("-v", "--verbose", is_flag=True, help="Every step with its reasons and what it waits for.")
@select_options
@pass_door
@click.pass_context
def command(
    ctx: click.Context,
    door: Door,
    site: str,
    out: str,
    kind: str,
    detail: str,
    nodes: tuple[str, ...],
    groups: tuple[str, ...],
    roles: tuple[str, ...],
    *,
    verbose: bool,
) -> None:
    """Show what would happen, why, in which order, and what is destroyed.

    Reads files and the store; touches no machine. Exits with 0 when there is nothing to do, with 2 when changes are
    pending.
    """
    from orchestrator.plan import dump, summarize

    chosen = selection(nodes, groups, roles)
    opened = door.open_site(site)
    made = opened.plan(chosen)
    tell_warnings(opened)
    look = Look() if out and kind != "text" else door.look()
    text = (
        dump(made).decode() if kind == "json" else _rendered(made, summarize(made), kind, detail, look, verbose=verbose)
    )
    if out and kind != "text":
        write_file(out, text.encode())
        click.echo(f"Wrote {out}")
    else:
        show(text, look)
    if kind == "text" and out:
        write_file(out, dump(made))
        click.echo(f"\nSaved. Apply exactly this plan: halligan apply {out}")
    elif kind == "text" and made.steps:
        click.echo(f"\nApply it: halligan apply {shlex.join([site, *_options(chosen)])}")
    ctx.exit(FOUND if made.steps else 0)


def _options(chosen: Selection) -> Iterator[str]:
    """Yield the options that make the same selection again."""
    for name, patterns in (("--node", chosen.nodes), ("--group", chosen.groups), ("--role", chosen.roles)):
        for pattern in patterns:
            yield from (name, pattern)


def _rendered(made: Plan, summary: Summary, kind: str, detail: str, look: Look, *, verbose: bool) -> str:
    if kind == "text":
        from orchestrator.cli.views.text import plan_text

        return plan_text(made, summary, look, verbose=verbose)
    from orchestrator.cli.views import diagram

    chosen = diagram.Detail(detail)
    if kind == "html":
        from orchestrator.cli.views.html import html

        return html(made, summary, chosen)
    picture = diagram.diagram(made, summary, chosen)
    if kind == "svg":
        from orchestrator.cli.views.svg import svg

        return svg(picture)
    from orchestrator.cli.views import graph

    return graph.dot(picture) if kind == "dot" else graph.mermaid(picture)
