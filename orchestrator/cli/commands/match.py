"""halligan match SITE"""

from __future__ import annotations

import click

from orchestrator.cli.door import SITE, Door, pass_door, show


@click.command()
@click.argument("site", type=SITE)
@click.option("--node", "nodes", multiple=True, metavar="PATTERN", help="Only these nodes; a shell glob.")
@pass_door
def command(door: Door, site: str, nodes: tuple[str, ...]) -> None:
    """Run the rules that choose machines on what is known of them, and explain every yes and no.

    Nothing is changed, and no machine is asked.
    """
    from orchestrator.cli.views.machines import match_text

    look = door.look()
    show(match_text(door.open_site(site).machines.match(), nodes, look), look)
