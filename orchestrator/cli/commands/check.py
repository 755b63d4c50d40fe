"""halligan check SITE"""

from __future__ import annotations

import click

from orchestrator.cli.door import SITE, Door, pass_door, select_options, selection
from orchestrator.cli.ending import ERROR, FOUND
from orchestrator.cli.running import tell, watcher


@click.command()
@click.argument("site", type=SITE)
@click.option(
    "--json", "as_json", is_flag=True, help="One JSON object per event and line on stdout; the rest on stderr."
)
@select_options
@pass_door
@click.pass_context
def command(
    ctx: click.Context,
    door: Door,
    site: str,
    nodes: tuple[str, ...],
    groups: tuple[str, ...],
    roles: tuple[str, ...],
    *,
    as_json: bool,
) -> None:
    """Ask the hosts for drift, in Ansible's check mode.

    Every placement that was applied is run with nothing changed; what would change has drifted. Exits with 0 when
    nothing has, with 2 when something has, with 1 when a host could not be asked.
    """
    opened = door.open_site(site)
    made = opened.plan(selection(nodes, groups, roles), check=True)
    if not made.steps:
        click.echo(f"Nothing to check: nothing was applied yet. See halligan plan {site}", err=True)
        return
    with watcher(door, f"Checking {opened.name}", as_json=as_json) as watch:
        result = opened.apply(made, on_event=watch, command="check", check=True)
    tell(door, result, site=site, seconds=watch.tally.took_s, as_json=as_json, check=True)
    if result.status != "succeeded":
        ctx.exit(ERROR)
    ctx.exit(FOUND if result.drift else 0)
