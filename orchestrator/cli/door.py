"""What a command needs of its surroundings: the global options, the terminal, and the way to a site."""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.shell_completion import CompletionItem

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console

    from orchestrator.cli.views.words import Look
    from orchestrator.plan import Selection
    from orchestrator.service import Site

__all__ = ["SITE", "Door", "pass_door", "select_options", "selection", "show", "tell_warnings", "write_file"]

PLAIN_WIDTH = 100  # of text that goes to a file or a pipe

_F = TypeVar("_F", bound="Callable[..., Any]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Door:
    """The global options, and what follows from them."""

    state: str = ""
    roles: tuple[str, ...] = ()
    vault_password_file: str = ""
    no_color: bool = False

    def open_site(self, name: str) -> Site:
        from orchestrator import service

        return service.open_site(name, roles=self.roles, state=self.state, vault_password_file=self.vault_password_file)

    def look(self, *, error: bool = False) -> Look:
        """Return how text for stdout, or for stderr, may be dressed."""
        from orchestrator.cli.views.words import Look  # loads the model, which --help need not

        stream = sys.stderr if error else sys.stdout
        width = shutil.get_terminal_size().columns if stream.isatty() else PLAIN_WIDTH
        return Look(colour=self._colour(terminal=stream.isatty()), width=width)

    def _colour(self, *, terminal: bool) -> bool:
        """Follow no-color.org: any NO_COLOR that is not empty means no."""
        if self.no_color or os.environ.get("NO_COLOR"):
            return False
        return bool(os.environ.get("FORCE_COLOR")) or (terminal and os.environ.get("TERM") != "dumb")

    def console(self) -> Console:
        from rich.console import Console

        return Console(no_color=not self.look().colour, highlight=False)


pass_door = click.make_pass_decorator(Door, ensure=True)


def show(text: str, look: Look | None = None, *, error: bool = False) -> None:
    """Write text that ends in a newline of its own."""
    click.echo(text, nl=False, err=error, color=look.colour if look else None)


def write_file(path: str, content: bytes) -> None:
    """Write a file whole or not at all, and say so."""
    from orchestrator.errors import HalliganError

    target = Path(path)
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(content)
        partial.replace(target)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise HalliganError(f"cannot write {path}: {error.strerror}") from None


# --- arguments that several commands share ------------------------------------------------------------------------


class _SiteName(click.ParamType[str]):
    """A name under inventories/, the site's folder or its cluster.yml."""

    name = "site"

    def shell_complete(
        self,
        ctx: click.Context,  # noqa: ARG002 - click's signature
        param: click.Parameter,  # noqa: ARG002 - click's signature
        incomplete: str,
    ) -> list[CompletionItem]:
        names = sorted(path.parent.name for path in Path("inventories").glob("*/cluster.yml"))
        found = [CompletionItem(name) for name in names if name.startswith(incomplete)]
        return found or [CompletionItem(incomplete, type="file")]


SITE = _SiteName()


def select_options(function: _F) -> _F:
    """Add --node, --group and --role."""
    for kind in ("role", "group", "node"):
        function = click.option(
            f"--{kind}",
            f"{kind}s",
            multiple=True,
            metavar="PATTERN",
            help=f"Only what concerns these {kind}s, and what it needs; a shell glob, may be given more than once.",
        )(function)
    return function


def selection(nodes: tuple[str, ...], groups: tuple[str, ...], roles: tuple[str, ...]) -> Selection:
    from orchestrator.plan import Selection

    return Selection(nodes=nodes, groups=groups, roles=roles)


def tell_warnings(site: Site) -> None:
    """Say on stderr what is odd but not wrong with a site that was just loaded."""
    for problem in site.warnings:
        click.echo(str(problem), err=True)
