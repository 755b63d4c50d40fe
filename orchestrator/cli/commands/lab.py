"""halligan lab up|down|status SITE"""

from __future__ import annotations

import click

from orchestrator.cli.door import SITE, Door, pass_door, show


@click.group()
def command() -> None:
    """Start, stop and show a site's local lab machines.

    The nodes with `lab: container` become real system containers on this machine, on a network of their own.
    """


def _report(line: str) -> None:
    click.echo(line, err=True)


@command.command()
@click.argument("site", type=SITE)
@pass_door
def up(door: Door, site: str) -> None:
    """Start the machines; those that run already stay as they are."""
    from orchestrator import lab
    from orchestrator.cli.views.lab import lab_text

    look = door.look()
    show(lab_text(lab.up(door.open_site(site).lab(), _report), look), look)


@command.command()
@click.argument("site", type=SITE)
@pass_door
def down(door: Door, site: str) -> None:
    """Stop the machines, remove everything that belongs to them, and forget what was applied to them."""
    door.open_site(site).lab_down(_report)


@command.command()
@click.argument("site", type=SITE)
@pass_door
def status(door: Door, site: str) -> None:
    """Show which machines run."""
    from orchestrator import lab
    from orchestrator.cli.views.lab import lab_text

    look = door.look()
    show(lab_text(lab.status(door.open_site(site).lab()), look), look)
