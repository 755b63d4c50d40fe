"""Where the site says what it says: looked up only when there is a problem to report."""

from __future__ import annotations

from collections.abc import Iterator

from orchestrator.errors import Location
from orchestrator.model import Group, Node, Source, Spec
from orchestrator.yaml import Path, locate

__all__ = ["Places"]


class Places:
    """Finds places in a spec's files. Holds a cache: what many nodes share is looked for once."""

    def __init__(self, spec: Spec) -> None:
        self._spec = spec
        self._known: dict[tuple[int, str], Location] = {}

    def section(self, path: Path) -> Location | None:
        """Return the place of a key of cluster.yml; None for a spec that was not read from a file."""
        source = self._spec.source
        return locate(_text(source), source.file, path) if source else None

    def variable(self, node: Node, name: str) -> Location | None:
        """Return where the value that a variable has on a node is set; None when nothing in the site sets it."""
        found = [self._place(source, name) for source in self._setting(node, name)]
        return next((place for place in found if place.line), found[0] if found else None)

    def _setting(self, node: Node, name: str) -> Iterator[Source]:
        """Yield what may set a variable of a node, the strongest first (`orchestrator/variables.py` has the order)."""
        groups = [self._spec.groups[group] for group in reversed(node.groups)]
        yield from _files(node, name)
        yield from _own(node, name)
        for owner in groups:
            yield from _files(owner, name)
        for owner in groups:
            yield from _own(owner, name)

    def _place(self, source: Source, name: str) -> Location:
        key = (id(source), name)
        if key not in self._known:
            self._known[key] = locate(_text(source), source.file, (*source.path, name))
        return self._known[key]


def _files(owner: Group | Node, name: str) -> Iterator[Source]:
    if name in owner.file_vars:
        yield from (source for source in reversed(owner.sources) if not source.path)


def _own(owner: Group | Node, name: str) -> Iterator[Source]:
    if name in owner.vars:
        yield from (source for source in owner.sources if source.path)


def _text(source: Source) -> str:
    return source.text.decode("utf-8", "replace") if isinstance(source.text, bytes) else source.text
