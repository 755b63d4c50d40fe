"""Problems of one document while it is being checked."""

from __future__ import annotations

from orchestrator.errors import Location, Problem
from orchestrator.yaml.loader import Document
from orchestrator.yaml.places import Path, locate_all

__all__ = ["Findings"]


class Findings:
    """Collects problems by path, and finds all their places by one scan at the end. Has inner state."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self._found: list[tuple[str, str, Path, str, str, tuple[tuple[str, Path | None], ...]]] = []

    def __bool__(self) -> bool:
        return bool(self._found)

    def error(
        self,
        code: str,
        path: Path,
        summary: str,
        *,
        hint: str = "",
        detail: tuple[str, ...] = (),
        also: tuple[tuple[str, Path], ...] = (),
    ) -> None:
        """Note an error at `path`; `also` puts lines before `detail` that end in the place of another path."""
        lines = (*also, *((text, None) for text in detail))
        self._found.append(("error", code, path, summary, hint, lines))

    def warning(self, code: str, path: Path, summary: str, *, hint: str = "") -> None:
        self._found.append(("warning", code, path, summary, hint, ()))

    def problems(self) -> list[Problem]:
        """Return everything noted, with places."""
        if not self._found:
            return []
        places = self._places()
        return [
            Problem(
                code=code,
                summary=summary,
                where=places[path],
                hint=hint,
                severity=severity,
                detail=tuple(text if at is None else f"{text} {places[at]}" for text, at in lines),
            )
            for severity, code, path, summary, hint, lines in self._found
        ]

    def _places(self) -> dict[Path, Location]:
        document = self.document
        wanted = {path for _, _, path, *_ in self._found}
        wanted |= {at for *_, lines in self._found for _, at in lines if at is not None}
        known = {path: document.places[path] for path in wanted if path in document.places}
        return known | locate_all(document.text, document.file, wanted - known.keys())
