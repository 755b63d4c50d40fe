"""halligan status SITE"""

from __future__ import annotations

import click

from orchestrator.cli.door import SITE, Door, pass_door, show


@click.command()
@click.argument("site", type=SITE)
@pass_door
def command(door: Door, site: str) -> None:
    """Show what is known of a site: runs, placements, trouble.

    Reads the store, not the hosts: `halligan check` asks those.
    """
    from orchestrator.cli.views.status import status_text

    look = door.look()
    show(status_text(door.open_site(site).status(), look), look)
