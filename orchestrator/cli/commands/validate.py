"""halligan validate SITE"""

from __future__ import annotations

import click

from orchestrator.cli.door import SITE, Door, pass_door, tell_warnings
from orchestrator.cli.views.words import count


@click.command()
@click.argument("site", type=SITE)
@pass_door
def command(door: Door, site: str) -> None:
    """Report every problem of a site at once.

    Reads the spec, its vars files and the roles, and touches no machine. Each problem says where it is and what to do
    about it. Warnings leave the exit code at 0.
    """
    opened = door.open_site(site)
    topology = opened.load()
    warnings = topology.problems
    tell_warnings(opened)
    facts = [
        count(len(topology.spec.nodes), "node"),
        count(len({placement.role for placement in topology.placements.values()}), "role"),
        count(len(topology.placements), "placement"),
    ]
    told = f", {count(len(warnings), 'warning')}" if warnings else ""
    click.echo(f"ok: {opened.name}, {', '.join(facts)}{told}")
