"""The table of commands and the global options. The commands themselves are imported when they are used."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import NamedTuple

import click

from orchestrator import __version__
from orchestrator.cli.door import Door

__all__ = ["COMMANDS", "app"]


class Entry(NamedTuple):
    """A command's line in `--help`, so that help need not load it. A test compares it with the command's own."""

    section: str
    help: str


LOOK, ACT, PREPARE = "Look, changing nothing", "Act", "Prepare"

COMMANDS: Mapping[str, Entry] = {
    "validate": Entry(LOOK, "Report every problem of a site at once."),
    "plan": Entry(LOOK, "Show what would happen, why, in which order, and what is destroyed."),
    "explain": Entry(LOOK, "Tell why a step exists and what it waits for."),
    "status": Entry(LOOK, "Show what is known of a site: runs, placements, trouble."),
    "log": Entry(LOOK, "Print what steps printed."),
    "events": Entry(LOOK, "List what happened, or follow it."),
    "nodes": Entry(LOOK, "Show bare-metal nodes, their machines and phases, and machines that nobody has."),
    "node": Entry(LOOK, "Show one bare-metal node in full, or let it give its machine back."),
    "trace": Entry(LOOK, "Show a machine's way from its firmware into a system, as one time line."),
    "match": Entry(LOOK, "Run the rules that choose machines on what is known of them, and explain every yes and no."),
    "roles": Entry(LOOK, "List the roles, or show one in full."),
    "apply": Entry(ACT, "Carry out a plan, or go on with an interrupted run."),
    "check": Entry(ACT, "Ask the hosts for drift, in Ansible's check mode."),
    "power": Entry(ACT, "Switch a bare-metal node's machine on, off, or off and on, by its BMC."),
    "rescue": Entry(ACT, "Start a machine in the discovery image with a login, whatever is on its disk."),
    "reinstall": Entry(ACT, "Have nodes installed anew by the next apply."),
    "retire": Entry(ACT, "Erase every disk of a machine, prove it, and switch it off for good."),
    "forget": Entry(ACT, "Drop what is known of a node that is gone for good."),
    "image": Entry(PREPARE, "Build, import and list operating system images."),
    "boot": Entry(PREPARE, "Answer machines of a site that start over the network."),
    "secrets": Entry(PREPARE, "Create, show and rotate a site's secrets."),
    "lab": Entry(PREPARE, "Start, stop and show a site's local lab machines."),
    "generate": Entry(PREPARE, "Write an example site of any size."),
    "schema": Entry(PREPARE, "Print the JSON Schema of cluster.yml, for editors."),
    "doctor": Entry(PREPARE, "Check this machine for what Halligan needs."),
}


class _LazyGroup(click.Group):
    """Finds commands in the table above and imports them one by one."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's
        if cmd_name not in COMMANDS:
            return None
        command = import_module(f"orchestrator.cli.commands.{cmd_name}").command
        return command if isinstance(command, click.Command) else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's
        for section in dict.fromkeys(entry.section for entry in COMMANDS.values()):
            with formatter.section(section):
                formatter.write_dl([(name, entry.help) for name, entry in COMMANDS.items() if entry.section == section])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            from orchestrator.errors import closest

            ctx.fail(f"There is no command {args[0]!r}.{closest(args[0], COMMANDS)}")
        return super().resolve_command(ctx, args)


@click.group(
    cls=_LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="SITE is a name under inventories/, the site's folder, or its cluster.yml."
    " Exit codes: 0 done or nothing to do, 1 error, 2 changes or drift found, 3 a bug.",
)
@click.option(
    "--state",
    metavar="PATH|URL",
    default="",
    envvar="HALLIGAN_STATE",
    help="The store: a SQLite file or a PostgreSQL URL.  [default: .halligan/state.db in the site's folder]",
)
@click.option(
    "--roles-path",
    "roles",
    metavar="DIR",
    multiple=True,
    envvar="HALLIGAN_ROLES_PATH",
    type=click.Path(),
    help="A folder of roles, searched first; may be given more than once.",
)
@click.option(
    "--vault-password-file",
    metavar="FILE",
    default="",
    envvar="HALLIGAN_VAULT_PASSWORD_FILE",
    help="The file with the site's Ansible Vault password.",
)
@click.option("--no-color", is_flag=True, help="Plain text; so does the variable NO_COLOR.")
@click.version_option(__version__, message="halligan %(version)s")
@click.pass_context
def app(ctx: click.Context, state: str, roles: tuple[str, ...], vault_password_file: str, *, no_color: bool) -> None:
    """Halligan takes a room of racked machines to a working mixed cloud.

    Say in cluster.yml what should be, look at the plan, apply it.
    """
    ctx.obj = Door(state=state, roles=roles, vault_password_file=vault_password_file, no_color=no_color)
