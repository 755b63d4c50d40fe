"""halligan reinstall SITE NODE..."""

from __future__ import annotations

import click

from orchestrator.cli.door import SITE, Door, pass_door


@click.command()
@click.argument("site", type=SITE)
@click.argument("nodes", nargs=-1, required=True, metavar="NODE...")
@pass_door
def command(door: Door, site: str, nodes: tuple[str, ...]) -> None:
    """Have nodes installed anew by the next apply.

    Nothing happens now: the next plan shows what is lost, and apply wants your consent for it.
    """
    opened = door.open_site(site)
    for line in opened.machines.reinstall(nodes):
        click.echo(line)
    click.echo(f"Look at what it destroys: halligan plan {site}")
