"""halligan power on|off|cycle|soft-off SITE NODE"""

from __future__ import annotations

import click

from orchestrator.cli.asking import agreed
from orchestrator.cli.door import SITE, Door, pass_door

_WORDS = ("on", "off", "cycle", "soft-off")


@click.command()
@click.argument("change", type=click.Choice(_WORDS), metavar="on|off|cycle|soft-off")
@click.argument("site", type=SITE)
@click.argument("node")
@click.option("--yes", is_flag=True, help="Do not ask.")
@pass_door
def command(door: Door, change: str, site: str, node: str, *, yes: bool) -> None:
    """Switch a bare-metal node's machine on, off, or off and on, by its BMC.

    off is at once, as if the plug were pulled; soft-off asks its system.
    """
    machines = door.open_site(site).machines
    if yes or change == "on" or agreed(f"Switch {node} {change.replace('cycle', 'off and on')}?"):
        for line in machines.power(node, change):
            click.echo(line)
