"""halligan apply SITE|PLAN.json"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from orchestrator.cli.asking import agreed
from orchestrator.cli.door import SITE, Door, pass_door, select_options, selection, show, tell_warnings
from orchestrator.cli.ending import ERROR
from orchestrator.cli.running import tell, watcher
from orchestrator.errors import ProblemsError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orchestrator.model import Event, Plan
    from orchestrator.plan import Selection
    from orchestrator.service import Site


@click.command()
@click.argument("target", metavar="SITE|PLAN.json", type=SITE)
@click.option("--yes", is_flag=True, help="Do not ask before applying a plan that was made just now.")
@click.option(
    "--allow-destroy",
    "consent",
    metavar="WHAT",
    multiple=True,
    help="Agree that this loses its data: a shell glob on steps, nodes, groups or roles. May be given more than once.",
)
@click.option(
    "--allow-quorum-loss",
    "quorum_loss",
    metavar="ROLE",
    multiple=True,
    help="Agree that this role may lose its majority for a while: a shell glob. May be given more than once.",
)
@click.option("--verify", is_flag=True, help="First ask the hosts whether they still are as they were left.")
@click.option("--resume", is_flag=True, help="Go on with the run that was interrupted.")
@click.option(
    "--json", "as_json", is_flag=True, help="One JSON object per event and line on stdout; the rest on stderr."
)
@click.option(
    "--site",
    "folder",
    metavar="SITE",
    type=SITE,
    default="",
    help="The site of PLAN.json, if it is not under inventories/.",
)
@select_options
@pass_door
@click.pass_context
def command(
    ctx: click.Context,
    door: Door,
    target: str,
    consent: tuple[str, ...],
    quorum_loss: tuple[str, ...],
    folder: str,
    nodes: tuple[str, ...],
    groups: tuple[str, ...],
    roles: tuple[str, ...],
    *,
    yes: bool,
    verify: bool,
    resume: bool,
    as_json: bool,
) -> None:
    """Carry out a plan, or go on with an interrupted run.

    Without --verify no host is asked anything that the plan does not need: nothing to do, no connection.

    With PLAN.json exactly that plan runs, without a question: it was reviewed. With SITE a plan is made, shown and
    asked about. Whatever loses data needs --allow-destroy as well, and what takes a cluster's majority away
    --allow-quorum-loss.

    Ctrl-C lets running steps finish and starts no new ones; a second Ctrl-C stops them. The next apply plans what is
    left. When the program itself was killed, --resume goes on with the same plan.
    """
    chosen = selection(nodes, groups, roles)
    is_plan = Path(target).suffix == ".json" or (Path(target).is_file() and Path(target).suffix != ".yml")
    if (chosen or verify) and (is_plan or resume):
        raise click.UsageError("--node, --group and --role narrow a plan that is made now, --verify comes before it.")
    made = _load(target) if is_plan else None
    called = folder or (made.site if made else target)
    site = door.open_site(called)
    if not resume:
        made = made or _make(door, site, chosen, consent, quorum_loss, yes=yes, verify=verify, as_json=as_json)
        if not made.steps:
            click.echo("Nothing was applied: the plan has no steps.", err=True)
            return
    with watcher(door, f"Applying {site.name}", as_json=as_json) as watch:
        if resume or made is None:
            watch.catch_up(_before(site))
            result = site.resume(quorum_loss=quorum_loss, on_event=watch)
        else:
            result = site.apply(made, consent=consent, quorum_loss=quorum_loss, on_event=watch)
    tell(door, result, site=called, seconds=watch.tally.took_s, as_json=as_json)
    ctx.exit(0 if result.status == "succeeded" else ERROR)


def _load(path: str) -> Plan:
    from orchestrator import service

    return service.load_plan(path)


def _verify(door: Door, site: Site, chosen: Selection, *, as_json: bool) -> None:
    """Look for drift, which the plan then repairs. A host that cannot be asked is told of, no more."""
    asked = site.plan(chosen, check=True)
    if asked.steps:
        with watcher(door, f"Verifying {site.name}", as_json=as_json) as watch:
            result = site.apply(asked, on_event=watch, command="check", check=True)
        tell(door, result, site=str(site.path), seconds=watch.tally.took_s, as_json=as_json, check=True)


def _before(site: Site) -> Iterator[Event]:
    """Yield what happened in the newest run so far: it is the one to go on with, if any is."""
    for run in site.status().runs[:1]:
        yield from site.events(run=run.id)


def _make(
    door: Door,
    site: Site,
    chosen: Selection,
    consent: tuple[str, ...],
    quorum_loss: tuple[str, ...],
    *,
    yes: bool,
    verify: bool,
    as_json: bool,
) -> Plan:
    """Return a plan that was shown and agreed to; without steps there is nothing to agree to."""
    from orchestrator.cli.views.text import plan_text
    from orchestrator.plan import refusals, summarize

    settled = site.settle()
    if settled:
        click.echo(
            f"Run {settled.run} had been interrupted; what it had reached is kept, the rest is planned anew.", err=True
        )
    if verify:
        _verify(door, site, chosen, as_json=as_json)
    made = site.plan(chosen)
    tell_warnings(site)
    look = door.look(error=as_json)
    show(plan_text(made, summarize(made), look), look, error=as_json)
    if not made.steps:
        return made
    if refused := refusals(made, consent, quorum_loss):
        raise ProblemsError(refused)
    if not yes:
        agreed("\nApply this plan?")
    return made
