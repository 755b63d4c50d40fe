"""halligan log SITE [NODE]"""

from __future__ import annotations

import click

from orchestrator.cli.door import SITE, Door, pass_door, show
from orchestrator.errors import HalliganError


@click.command()
@click.argument("site", type=SITE)
@click.argument("node", default="")
@click.option("--step", metavar="STEP", default="", help="Only of this step, such as keystone@ctl-1.")
@click.option("--run", metavar="RUN", default="", help="Only of this run; `halligan status` lists them.")
@click.option("--limit", type=click.IntRange(min=0), default=20, show_default=True, help="Newest entries; 0 for all.")
@pass_door
def command(door: Door, site: str, node: str, step: str, run: str, limit: int) -> None:
    """Print what steps printed.

    The newest entries are shown, in the order in which they were written: the output of Ansible for that step on that
    node, an entry per attempt.
    """
    from orchestrator.cli.views.log import log_text

    look = door.look()
    text = log_text(door.open_site(site).log(node=node, step=step, run=run, limit=limit or None), look)
    if not text:
        raise HalliganError(
            "no output is recorded for that",
            hint=f"a step that never reached its host prints nothing; see `halligan events {site}`",
        )
    show(text, look)
