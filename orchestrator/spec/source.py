"""What the reader of a site is given: texts from the edge, and a way to open encrypted ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from orchestrator.errors import Problem
from orchestrator.model import Value

__all__ = ["Decrypt", "SiteFiles", "SourceFile"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceFile:
    """One file: `path` is relative to the site's folder, `shown` is how messages name it."""

    path: str
    shown: str
    text: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteFiles:
    """The files of a site that decide what it should be. `folder` and `home` are absolute."""

    site: str
    folder: str
    cluster: SourceFile
    home: str = ""
    group_vars: Mapping[str, tuple[SourceFile, ...]] = field(default_factory=dict)  # later files win
    host_vars: Mapping[str, tuple[SourceFile, ...]] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()  # warnings noted while collecting the files


class Decrypt(Protocol):
    """Opens what is encrypted with Ansible Vault. Both raise HalliganError: no password, or not the right one."""

    def decrypt(self, text: str) -> str:
        """Return the plain text of a `$ANSIBLE_VAULT;…` envelope."""
        ...

    def fingerprint(self, value: Value) -> str:
        """Return a digest of a value that means nothing to someone without the password."""
        ...
