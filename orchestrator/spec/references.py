"""Names that refer to something: each unknown one is one problem, however many places use it."""

from __future__ import annotations

from collections.abc import Collection

from orchestrator.errors import closest
from orchestrator.yaml import Findings, Path, dotted

__all__ = ["References"]

_SHOWN = 3


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
        for name, paths in self._unknown.items():
            first, others = paths[0], paths[1:]
            also = tuple((f"also in {dotted(path)},", path) for path in others[:_SHOWN])
            more = (f"and in {len(others) - _SHOWN} more places",) if len(others) > _SHOWN else ()
            findings.error(
                f"spec.unknown-{self._kind}",
                first,
                f'{dotted(first)} names the {self._kind} "{name}", which does not exist.{closest(name, self._known)}',
                hint=self._hint,
                detail=more,
                also=also,
            )
