"""halligan secrets init|show|rotate SITE"""

from __future__ import annotations

import json

import click

from orchestrator.cli.asking import agreed
from orchestrator.cli.door import SITE, Door, pass_door
from orchestrator.errors import HalliganError, closest


@click.group()
def command() -> None:
    """Create, show and rotate a site's secrets.

    They are kept in group_vars/all/secrets.yml of the site, encrypted with Ansible Vault.
    """


@command.command()
@click.argument("site", type=SITE)
@pass_door
def init(door: Door, site: str) -> None:
    """Generate every secret that a role needs and the site lacks.

    Secrets that exist stay as they are. Without a vault password, one is made and kept in .vault-password of the site.
    """
    names = door.open_site(site).secrets_init()
    for name in names:
        click.echo(f"generated {name}")
    click.echo(f"{len(names)} generated" if names else "Nothing to generate: the site has every secret that it needs.")


@command.command()
@click.argument("site", type=SITE)
@click.argument("name", default="")
@pass_door
def show(door: Door, site: str, name: str) -> None:
    """Print the names of the generated secrets, or the value of one."""
    known = door.open_site(site).vault.view()
    if not name:
        for known_name in sorted(known):
            click.echo(known_name)
        return
    if name not in known:
        raise HalliganError(f"there is no secret {name}.{closest(name, known)}", hint=f"halligan secrets show {site}")
    value = known[name]
    click.echo(value if isinstance(value, str) else json.dumps(value))


@command.command()
@click.argument("site", type=SITE)
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@click.option("--yes", is_flag=True, help="Do not ask.")
@pass_door
def rotate(door: Door, site: str, names: tuple[str, ...], *, yes: bool) -> None:
    """Give secrets a new value.

    Nothing changes on the hosts until the next apply; its plan updates every placement that the secrets reach.
    """
    opened = door.open_site(site)
    if yes or agreed(f"Replace {', '.join(names)} of {site}?"):
        for name in opened.vault.rotate(names):
            click.echo(f"rotated {name}")
        click.echo(f"What it changes: halligan plan {site}")
