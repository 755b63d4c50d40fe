"""halligan roles [SITE], halligan roles show ROLE [SITE]"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from orchestrator.cli.door import SITE, Door, pass_door, show
from orchestrator.errors import HalliganError, closest

if TYPE_CHECKING:
    from orchestrator.model import Catalog


class _ListByDefault(click.Group):
    """Takes `roles` and `roles SITE` as `roles list [SITE]`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args or (args[0] not in self.commands and args[0] not in ctx.help_option_names):
            args = ["list", *args]
        return super().parse_args(ctx, args)


@click.group(cls=_ListByDefault)
def command() -> None:
    """List the roles, or show one in full.

    `halligan roles [SITE]` lists those that a site can use, or those in ./roles;
    `halligan roles show ROLE [SITE]` shows one.
    """


@command.command("list")
@click.argument("site", type=SITE, default="")
@pass_door
def list_(door: Door, site: str) -> None:
    """List the roles: what each provides and requires, and where it runs."""
    from orchestrator.cli.views.roles import roles_text

    look = door.look()
    show(roles_text(_catalog(door, site), look), look)


@command.command("show")
@click.argument("role")
@click.argument("site", type=SITE, default="")
@pass_door
def show_(door: Door, role: str, site: str) -> None:
    """Show a role in full: its contract, its inputs and its outputs."""
    from orchestrator.cli.views.roles import role_text

    look = door.look()
    known = _catalog(door, site)
    if role not in known:
        raise HalliganError(f"there is no role {role}.{closest(role, known)}", hint="`halligan roles` lists them")
    show(role_text(known[role], look), look)


def _catalog(door: Door, site: str) -> Catalog:
    if site:
        return door.open_site(site).catalog()
    from orchestrator import catalog, files

    folders: list[str | Path] = [*door.roles, *(["roles"] if Path("roles").is_dir() else []), files.HOME / "roles"]
    return catalog.read(files.read_roles(folders))
