"""docs/cli.md names every command, every option and every exit code."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from orchestrator.cli.app import COMMANDS, app

PAGE = (Path(__file__).parents[3] / "docs" / "cli.md").read_text(encoding="utf-8")


def sections() -> dict[str, str]:
    """Return heading -> text up to the next heading."""
    parts = re.split(r"^#+ (.*)$", PAGE, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def commands() -> Iterator[tuple[str, click.Command]]:
    """Yield each command that does something, by its full name."""
    context = click.Context(app)
    for name in COMMANDS:
        command = app.get_command(context, name)
        assert command
        if isinstance(command, click.Group):
            yield from ((f"{name} {sub.name}", sub) for sub in command.commands.values())
        else:
            yield name, command


EVERY = dict(commands())


@pytest.mark.parametrize("name", sorted(EVERY))
def test_every_command_has_a_heading(name: str) -> None:
    assert any(heading.startswith(f"halligan {name}") for heading in sections()), name


@pytest.mark.parametrize("name", sorted(EVERY))
def test_every_option_stands_under_its_command(name: str) -> None:
    text = next(body for heading, body in sections().items() if heading.startswith(f"halligan {name}"))
    for parameter in EVERY[name].params:
        if isinstance(parameter, click.Option):
            assert f"`{max(parameter.opts, key=len)}" in text, (name, parameter.opts)


def test_every_global_option_stands_on_the_page() -> None:
    text = sections()["Global options"]
    for parameter in app.params:
        assert f"`{parameter.opts[0]}" in text


@pytest.mark.parametrize("code", ["0", "1", "2", "3", "130"])
def test_every_exit_code_stands_on_the_page(code: str) -> None:
    assert re.search(rf"^\| {code} \|", sections()["Exit codes"], re.MULTILINE)


def test_no_heading_names_a_command_that_is_not_there() -> None:
    named = [heading for heading in sections() if heading.startswith("halligan ")]
    assert all(any(heading.startswith(f"halligan {name}") for name in EVERY) for heading in named)
