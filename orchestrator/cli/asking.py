"""Questions to the person at the terminal."""

from __future__ import annotations

import sys

import click

from orchestrator.errors import HalliganError

__all__ = ["agreed"]


def agreed(question: str) -> bool:
    """Ask, and stop here when the answer is no.

    Raises:
        HalliganError: there is no terminal, so nobody to ask.
        click.Abort: the answer is no.
    """
    if not sys.stdin.isatty():
        raise HalliganError("this needs your agreement, and there is no terminal to ask at", hint="agree with --yes")
    return click.confirm(question, abort=True, err=True)
