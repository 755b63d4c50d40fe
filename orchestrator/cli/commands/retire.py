"""halligan retire SITE NODE"""

from __future__ import annotations

import click

from orchestrator.cli.asking import agreed
from orchestrator.cli.door import SITE, Door, pass_door


@click.command()
@click.argument("site", type=SITE)
@click.argument("name", metavar="NODE|MACHINE")
@click.option("--undo", is_flag=True, help="Take a retired machine back.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@pass_door
def command(door: Door, site: str, name: str, *, undo: bool, yes: bool) -> None:
    """Erase every disk of a machine, prove it, and switch it off for good."""
    machines = door.open_site(site).machines
    if yes or undo or agreed(f"Erase every disk of {name}? Nothing brings the data back."):
        for line in machines.retire(name, undo=undo):
            click.echo(line)
