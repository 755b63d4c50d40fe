"""halligan boot serve|status SITE"""

from __future__ import annotations

import os

import click

from orchestrator.cli.door import SITE, Door, pass_door


@click.group()
def command() -> None:
    """Answer machines of a site that start over the network.

    `halligan apply` starts this by itself for as long as a plan needs it; a service that always runs also discovers
    machines that nobody expects.
    """


@command.command()
@click.argument("site", type=SITE)
@pass_door
def serve(door: Door, site: str) -> None:
    """Serve in the foreground until Ctrl-C: DHCP and TFTP, boot scripts, images and the agent's API."""
    words = door.open_site(site).machines.command()
    os.execvp(words[0], words)  # noqa: S606 - the boot service takes this process over, with its signals


@command.command()
@click.argument("site", type=SITE)
@pass_door
def status(door: Door, site: str) -> None:
    """Show whether a boot service of the site runs, and where."""
    from orchestrator import netboot
    from orchestrator.cli.views.words import when

    record = netboot.running(door.open_site(site).state_dir)
    if record is None:
        click.echo("No boot service runs. `halligan boot serve` starts one; `halligan apply` does by itself.")
        return
    click.echo(f"The boot service runs since {when(record.since)} (pid {record.pid}).")
    click.echo(f"  boot scripts and images  http://{record.address}:{record.http_port}")
    click.echo(f"  the agent's API          https://{record.address}:{record.https_port}")
    click.echo(f"  DHCP                     {record.dhcp}")
