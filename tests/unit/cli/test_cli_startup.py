"""What `halligan --help` loads. Modules are counted, not seconds: a clock in a test lies."""

from __future__ import annotations

import subprocess
import sys

import pytest

from orchestrator.cli.app import COMMANDS, app

HEAVY = {
    "networkx",
    "sqlalchemy",
    "pydantic",
    "rich",
    "ansible",
    "ansible_runner",
    "jinja2",
    "yaml",
    "asyncio",
    "orchestrator.service",
    "orchestrator.model",
}

PROGRAM = """
import sys
from orchestrator.cli.ending import run
from orchestrator.cli.app import app
code = run(app, sys.argv[1:])
print("LOADED", *sorted(sys.modules))
"""


def loaded(*arguments: str) -> set[str]:
    done = subprocess.run([sys.executable, "-c", PROGRAM, *arguments], capture_output=True, text=True, check=True)
    return set(done.stdout.rpartition("LOADED")[2].split())


@pytest.mark.parametrize("arguments", [("--help",), ("--version",), ()])
def test_help_loads_nothing_heavy(arguments: tuple[str, ...]) -> None:
    modules = loaded(*arguments)
    assert not modules & HEAVY
    assert not {name for name in modules if name.startswith("orchestrator.cli.commands.")}


@pytest.mark.parametrize("name", list(COMMANDS))
def test_help_of_a_command_loads_only_that_command(name: str) -> None:
    modules = loaded(name, "--help")
    commands = {module for module in modules if module.startswith("orchestrator.cli.commands.")}
    assert commands == {f"orchestrator.cli.commands.{name}"}
    assert not modules & (HEAVY - {"orchestrator.model"})


@pytest.mark.parametrize("name", list(COMMANDS))
def test_the_table_of_help_is_that_of_the_commands(name: str) -> None:
    import click

    command = app.get_command(click.Context(app), name)
    assert command
    assert (command.help or "").partition("\n")[0] == COMMANDS[name].help
