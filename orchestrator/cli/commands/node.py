"""halligan node show|release SITE NODE"""

from __future__ import annotations

import click

from orchestrator.cli.door import SITE, Door, pass_door, show


@click.group()
def command() -> None:
    """Show one bare-metal node in full, or let it give its machine back."""


@command.command("show")
@click.argument("site", type=SITE)
@click.argument("name", metavar="NODE|MACHINE")
@click.option("--json", "as_json", is_flag=True, help="The facts, as the machine sent them.")
@pass_door
def show_(door: Door, site: str, name: str, *, as_json: bool) -> None:
    """Show the hardware, the life and the last events of a node's machine."""
    import json

    from orchestrator.cli.views.machines import node_text

    look = door.look()
    machines = door.open_site(site).machines
    view, facts = machines.show(name)
    if as_json:
        show(json.dumps(machines.document(view.machine) if view.machine else {}, indent=2) + "\n")
        return
    show(node_text(view, facts, machines.trace(name), look), look)


@command.command()
@click.argument("site", type=SITE)
@click.argument("node")
@pass_door
def release(door: Door, site: str, node: str) -> None:
    """Let a node give its machine back before anything is installed on it."""
    for line in door.open_site(site).machines.release(node):
        click.echo(line)
