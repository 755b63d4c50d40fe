"""How every run of the program ends: its exit code, what it says on stderr, and the log of a bug.

A reader that has gone (`halligan plan lab | head`) ends the program without a word, with exit code 1.

0    done, or nothing to do
1    an error that the user can fix, wrong usage, or a failed run
2    changes are pending (plan) or hosts have drifted (check)
3    a bug in Halligan; a file holds the traceback
130  interrupted by Ctrl-C
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from orchestrator.errors import HalliganError, ProblemsError

__all__ = ["BUG", "ERROR", "FOUND", "INTERRUPTED", "run"]

ERROR = 1
FOUND = 2
BUG = 3
INTERRUPTED = 130


def run(app: click.Command, arguments: Sequence[str]) -> int:
    """Run the program and return its exit code."""
    try:
        code = app.main(args=list(arguments), prog_name="halligan", standalone_mode=False)
        sys.stdout.flush()
    except (Exception, KeyboardInterrupt) as error:  # the last resort: no traceback on the operator's screen
        return _told(error, arguments)
    return code if isinstance(code, int) else 0


def _told(error: BaseException, arguments: Sequence[str]) -> int:
    """Tell what went wrong on stderr, and return the exit code for it."""
    match error:
        case click.ClickException():
            error.show()
        case ProblemsError():  # each problem says itself whether it is an error
            click.echo(str(error), err=True)
        case HalliganError():
            click.echo(f"{click.style('error:', fg='red', bold=True)} {error}", err=True)
        case BrokenPipeError():
            _drop_stdout()
        case click.Abort():
            click.echo("Aborted; nothing was done.", err=True)
            return INTERRUPTED
        case Exception():
            return _bug(error, arguments)
        case _:
            return INTERRUPTED
    return ERROR


def _drop_stdout() -> None:
    """Let the interpreter flush into nothing when it ends, instead of complaining about the closed pipe."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _bug(error: Exception, arguments: Sequence[str]) -> int:
    import traceback

    kind = type(error).__name__
    click.echo(f"{click.style('This is a bug in Halligan:', fg='red', bold=True)} {kind}: {error}", err=True)
    try:
        path = _write_log("".join(traceback.format_exception(error)), arguments)
    except OSError as refused:
        click.echo(f"    its log could not be written ({refused}), so here it is:", err=True)
        traceback.print_exception(error)
        return BUG
    click.echo(f"    log:  {path}", err=True)
    click.echo("    hint: report it with that file; read it first, it names your nodes and folders", err=True)
    return BUG


def _write_log(trace: str, arguments: Sequence[str]) -> Path:
    """Write the log of a bug to a folder of the user's own."""
    import platform
    import tempfile
    from datetime import UTC, datetime

    from orchestrator import __version__

    home = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    folder = Path(home) / "halligan"
    head = [
        f"halligan {__version__}, Python {platform.python_version()}, {platform.platform()}",
        f"at {datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}: halligan {' '.join(arguments)}",
        "",
    ]
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix="bug-", suffix=".log", dir=folder)
    except OSError:
        handle, name = tempfile.mkstemp(prefix="halligan-bug-", suffix=".log")
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write("\n".join([*head, trace]))
    return Path(name)
