"""halligan trace SITE NODE"""

from __future__ import annotations

import click

from orchestrator.cli.door import SITE, Door, pass_door, show


@click.command()
@click.argument("site", type=SITE)
@click.argument("name", metavar="NODE|MACHINE")
@click.option("--limit", default=200, show_default=True, metavar="N", help="How many of the newest lines; 0 for all.")
@pass_door
def command(door: Door, site: str, name: str, limit: int) -> None:
    """Show a machine's way from its firmware into a system, as one time line.

    DHCP, TFTP, boot script, image, agent, orders and what the plan's steps made of them.
    """
    from orchestrator.cli.views.machines import trace_text

    look = door.look()
    lines = door.open_site(site).machines.trace(name)
    show(trace_text(name, lines[-limit:] if limit else lines, look), look)
