"""halligan doctor"""

from __future__ import annotations

import click

from orchestrator.cli.door import Door, pass_door, show
from orchestrator.cli.ending import ERROR


@click.command()
@pass_door
@click.pass_context
def command(ctx: click.Context, door: Door) -> None:
    """Check this machine for what Halligan needs.

    Exits with 1 when something is missing that plan and apply need; what only some commands need is told, too.
    """
    from orchestrator.cli.prerequisites import look_around
    from orchestrator.cli.views.doctor import doctor_text

    findings = look_around()
    look = door.look()
    show(doctor_text(findings, look), look)
    ctx.exit(ERROR if any(not finding.good and finding.required for finding in findings) else 0)
