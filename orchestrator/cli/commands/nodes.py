"""halligan nodes SITE"""

from __future__ import annotations

import click

from orchestrator.cli.door import SITE, Door, pass_door, show


@click.command()
@click.argument("site", type=SITE)
@click.option("--json", "as_json", is_flag=True, help="One JSON object per node or machine and line.")
@pass_door
def command(door: Door, site: str, *, as_json: bool) -> None:
    """Show bare-metal nodes, their machines and phases, and machines that nobody has."""
    from orchestrator.cli.views.machines import nodes_json, nodes_text

    look = door.look()
    views = door.open_site(site).machines.overview()
    show(nodes_json(views) if as_json else nodes_text(views, look), look)
