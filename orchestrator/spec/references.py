"""Names that refer to something: each unknown one is one problem, however many places use it."""

from __future__ import annotations

import bisect
from collections.abc import Collection

from orchestrator.errors import closest
from orchestrator.yaml import Findings, Path, dotted

__all__ = ["Guesses", "References"]

_SHOWN = 3
_GUESSES = 100
_AROUND = 250  # of thousands of names only those near by in the alphabet are compared: the rest is too slow


class Guesses:
    """Finds what a wrong name may have meant; gives up after a hundred of them. Has inner state."""

    def __init__(self, known: Collection[str]) -> None:
        self._known = sorted(known)
        self._left = _GUESSES

    def closest(self, name: str) -> str:
        """Return ` Did you mean "x"?`, or an empty string."""
        self._left -= 1
        if self._left < 0:
            return ""
        middle = bisect.bisect(self._known, name)
        near = self._known[max(0, middle - _AROUND) : middle + _AROUND]
        return closest(name, self._known if len(self._known) <= 2 * _AROUND else near)


class References:
    """Collects uses of names of one kind (group, profile, …). Has inner state until `report`."""

    def __init__(self, kind: str, known: Collection[str], hint: str = "") -> None:
        self._kind = kind
        self._known = known
        self._hint = hint
        self._unknown: dict[str, list[Path]] = {}

    def use(self, name: str, path: Path) -> bool:
        """Note a use; return whether the name is known."""
        if name in self._known:
            return True
        self._unknown.setdefault(name, []).append(path)
        return False

    def report(self, findings: Findings) -> None:
        guesses = Guesses(self._known)
        for name, paths in self._unknown.items():
            first, others = paths[0], paths[1:]
            also = tuple((f"also in {dotted(path)},", path) for path in others[:_SHOWN])
            more = (f"and in {len(others) - _SHOWN} more places",) if len(others) > _SHOWN else ()
            findings.error(
                f"spec.unknown-{self._kind}",
                first,
                f'{dotted(first)} names the {self._kind} "{name}", which does not exist.{guesses.closest(name)}',
                hint=self._hint,
                detail=more,
                also=also,
            )
