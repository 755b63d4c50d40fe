"""What the reader of the catalogue is given: the texts of each role that say what it promises and needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["RoleFile", "RoleFiles", "RoleSource"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RoleFile:
    """One file of a role; `shown` is how messages name it."""

    shown: str
    text: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class RoleSource:
    """One role folder. `digest` covers every file that decides what the role does."""

    name: str
    path: str
    shown: str
    digest: str
    contract: RoleFile | None = None  # meta/contract.yml
    specs: RoleFile | None = None  # meta/argument_specs.yml
    meta: RoleFile | None = None  # meta/main.yml
    defaults: RoleFile | None = None  # defaults/main.yml
    vars: RoleFile | None = None  # vars/main.yml
    has_remove: bool = False  # tasks/remove.yml
    texts: Mapping[str, bytes] = field(default_factory=dict)  # path in the role -> tasks, handlers, vars and templates
    encrypted: str = ""  # path in the role of a file that is Vault-encrypted, if there is one


@dataclass(frozen=True, slots=True, kw_only=True)
class RoleFiles:
    """Every role folder that was found, by name."""

    roles: tuple[RoleSource, ...] = ()
