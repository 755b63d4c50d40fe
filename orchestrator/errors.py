"""What can go wrong, in words for an operator: what, where, why and what to do next.

HalliganError            something the user can fix; exit code 1, never a traceback
 +-- ProblemsError       an input with one or more problems, all reported at once
 +-- LockedError         somebody else works on this site
 +-- StalePlanError      the plan no longer fits the site, the roles or the store
 +-- StoreError          the store cannot be read or written (full disk, newer version)

Anything else that escapes is a bug of ours: exit code 3 and a log with the traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

__all__ = [
    "HalliganError",
    "Location",
    "LockedError",
    "Problem",
    "ProblemsError",
    "StalePlanError",
    "StoreError",
    "closest",
]


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Location:
    """A place in a file; line and column count from 1, 0 means that they are not known."""

    file: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        return ":".join([self.file, *(str(n) for n in (self.line, self.column) if n)])


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing that is wrong with an input.

    `code` is a stable short name (`spec.unknown-key`), `summary` says what and why in one sentence,
    `detail` may add lines (candidates, a cycle), `hint` says what to do next.
    """

    code: str
    summary: str
    where: Location | None = None
    detail: tuple[str, ...] = ()
    hint: str = ""
    severity: str = "error"  # or "warning"

    def __str__(self) -> str:
        head = f"{self.where}: " if self.where else ""
        lines = [f"{head}{self.severity}: {self.summary}", *(f"    {line}" for line in self.detail)]
        if self.hint:
            lines.append(f"    hint: {self.hint}")
        return "\n".join(lines)


class HalliganError(Exception):
    """The user can fix this. `detail` lines explain, `hint` is the next step."""

    def __init__(self, summary: str, *, detail: Sequence[str] = (), hint: str = "") -> None:
        super().__init__(summary)
        self.summary = summary
        self.detail = tuple(detail)
        self.hint = hint

    def __str__(self) -> str:
        lines = [self.summary, *(f"    {line}" for line in self.detail)]
        if self.hint:
            lines.append(f"    hint: {self.hint}")
        return "\n".join(lines)


class ProblemsError(HalliganError):
    """All problems of an input at once, sorted by place."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(
            sorted(problems, key=lambda p: (p.where or Location(file="~"), p.code, p.summary)),
        )
        errors = sum(problem.severity == "error" for problem in self.problems)
        warnings = len(self.problems) - errors
        counts = [f"{n} {word}{'s' if n != 1 else ''}" for n, word in ((errors, "problem"), (warnings, "warning")) if n]
        super().__init__(f"{' and '.join(counts)} found")

    def __str__(self) -> str:
        return "\n".join([*(str(problem) for problem in self.problems), self.summary])


class LockedError(HalliganError):
    """Another process holds the site's lock; the message says who and since when."""


class StalePlanError(HalliganError):
    """The plan was made for another revision of the store, the spec or the roles."""


class StoreError(HalliganError):
    """The store cannot be opened, read or written."""


def closest(word: str, candidates: Iterable[str]) -> str:
    """Return ` Did you mean "x"?` for the nearest candidate, or an empty string."""
    found = difflib.get_close_matches(word, list(candidates), n=1, cutoff=0.6)
    return f' Did you mean "{found[0]}"?' if found else ""
