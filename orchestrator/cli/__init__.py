"""The command line: parse, call the service, render. No decisions are made here, and commands load when they are used.

app.py       the table of commands and the options they share
door.py      what a command needs of its surroundings: settings, terminal, site
ending.py    how every run of the program ends: exit codes, messages, the log of a bug
commands/    one file per command
views/       pure functions from values to text
"""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """Run the program named `halligan`."""
    from orchestrator.cli.app import app
    from orchestrator.cli.ending import run

    sys.exit(run(app, sys.argv[1:]))
