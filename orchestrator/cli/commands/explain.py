"""halligan explain SITE STEP"""

from __future__ import annotations

import click

from orchestrator.cli.door import SITE, Door, pass_door, show


@click.command()
@click.argument("site", type=SITE)
@click.argument("step")
@pass_door
def command(door: Door, site: str, step: str) -> None:
    """Tell why a step exists and what it waits for.

    STEP is ROLE@NODE, such as keystone@ctl-1. Touches no machine.
    """
    from orchestrator.cli.views.explain import explain_text

    look = door.look()
    show(explain_text(door.open_site(site).explain(step), look), look)
