"""halligan rescue SITE NODE"""

from __future__ import annotations

import click

from orchestrator.cli.asking import agreed
from orchestrator.cli.door import SITE, Door, pass_door


@click.command()
@click.argument("site", type=SITE)
@click.argument("node")
@click.option("--undo", is_flag=True, help="End it: the machine starts from its disk again, if it has a system there.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@pass_door
def command(door: Door, site: str, node: str, *, undo: bool, yes: bool) -> None:
    """Start a machine in the discovery image with a login, whatever is on its disk.

    Nothing is written to its disks. Whatever ran on it ends.
    """
    machines = door.open_site(site).machines
    if yes or agreed(f"Switch {node} off and on?"):
        for line in machines.rescue(node, undo=undo):
            click.echo(line)
