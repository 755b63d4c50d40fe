"""halligan forget SITE NODE"""

from __future__ import annotations

import click

from orchestrator.cli.asking import agreed
from orchestrator.cli.door import SITE, Door, pass_door


@click.command()
@click.argument("site", type=SITE)
@click.argument("node")
@click.option("--yes", is_flag=True, help="Do not ask.")
@pass_door
def command(door: Door, site: str, node: str, *, yes: bool) -> None:
    """Drop what is known of a node that is gone for good.

    Nothing runs on the node. When it comes back, it is a new node to every plan.
    """
    opened = door.open_site(site)
    if yes or agreed(f"Forget all that is known of {node}?"):
        opened.forget(node)
        click.echo(f"Forgot {node}.")
