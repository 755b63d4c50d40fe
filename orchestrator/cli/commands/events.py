"""halligan events SITE"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from orchestrator.cli.door import SITE, Door, pass_door

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orchestrator.model import Event
    from orchestrator.service import Site

PAUSE_S = 0.5


@click.command()
@click.argument("site", type=SITE)
@click.option("-f", "--follow", is_flag=True, help="Go on with new events until Ctrl-C.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
@click.option(
    "--after", metavar="N", type=click.IntRange(min=0), default=0, help="Begin after the event with this number."
)
@click.option("--run", metavar="RUN", default="", help="Only of this run.")
@click.option("--node", metavar="NODE", default="", help="Only of this node.")
@pass_door
def command(door: Door, site: str, after: int, run: str, node: str, *, follow: bool, as_json: bool) -> None:
    """List what happened, or follow it.

    Events are facts in the order of their numbers; docs/store.md explains each kind.
    """
    from orchestrator.cli.views.events import event_json, event_text

    look = door.look()
    for event in _events(door.open_site(site), after, run, node, follow=follow):
        click.echo(event_json(event) if as_json else event_text(event, look), color=look.colour)


def _events(site: Site, after: int, run: str, node: str, *, follow: bool) -> Iterator[Event]:
    """Yield events; when following, look again and again until Ctrl-C, which then is the normal end."""
    try:
        while True:
            for event in site.events(after=after, run=run, node=node):
                yield event
                after = event.seq
            if not follow:
                return
            time.sleep(PAUSE_S)
    except KeyboardInterrupt:
        if not follow:
            raise
