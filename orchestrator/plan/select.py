"""Patterns that narrow a plan: shell globs on the names of nodes, groups and roles."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

__all__ = ["Selection"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which placements a plan is asked for. Empty patterns choose everything; the kinds must all match."""

    nodes: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.nodes or self.groups or self.roles)

    def matches(self, node: str, groups: Iterable[str], role: str) -> bool:
        return (
            _any(self.nodes, (node,)) and _any(self.groups, groups if self.groups else ()) and _any(self.roles, (role,))
        )

    def words(self) -> tuple[str, ...]:
        """Return the selection as command line options, for people and for the plan document."""
        kinds = (("--node", self.nodes), ("--group", self.groups), ("--role", self.roles))
        return tuple(f"{option} {pattern}" for option, patterns in kinds for pattern in patterns)

    def unmatched(self, nodes: Iterable[str], groups: Iterable[str], roles: Iterable[str]) -> tuple[str, ...]:
        """Return the patterns that match nothing at all: most likely typing mistakes."""
        kinds = ((self.nodes, tuple(nodes)), (self.groups, tuple(groups)), (self.roles, tuple(roles)))
        return tuple(p for patterns, names in kinds for p in patterns if not _any((p,), names))


def _any(patterns: tuple[str, ...], names: Iterable[str]) -> bool:
    return not patterns or any(fnmatchcase(name, pattern) for name in names for pattern in patterns)
