"""How a node is reached: the settings of the site, its groups and itself, laid over each other."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import PurePosixPath

from orchestrator.model import Connection
from orchestrator.spec.schema import ConnectionModel
from orchestrator.spec.source import SiteFiles

__all__ = ["absolute", "connect"]

_PATHS = ("private_key", "known_hosts")


def connect(files: SiteFiles, scopes: Iterable[ConnectionModel | None]) -> Connection:
    """Return the connection that the scopes give, widest first. A scope that changes the transport starts anew."""
    merged: dict[str, str | int] = {}
    for scope in scopes:
        given = scope.model_dump(exclude_none=True) if scope else {}
        if "transport" in given and given["transport"] != merged.get("transport", "ssh"):
            merged = {}
        merged |= given
    for name in _PATHS:
        if text := merged.get(name):
            merged[name] = absolute(files, str(text))
    return Connection(**merged)  # type: ignore[arg-type]  # the model has the same fields


def absolute(files: SiteFiles, text: str) -> str:
    """Return the path of a file that a spec names: relative to the site's folder, or ~/…"""
    if text == "~" or text.startswith("~/"):
        return str(PurePosixPath(files.home) / text[2:])
    return str(PurePosixPath(files.folder) / text)
