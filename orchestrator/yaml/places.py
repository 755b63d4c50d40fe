"""Where a key or an item of a YAML text stands: a scan of the events, made only when there is a problem to report."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import TypeAlias

import yaml
from yaml._yaml import CParser

from orchestrator.errors import Location
from orchestrator.model import Json

__all__ = ["Path", "dotted", "locate", "locate_all"]

Path: TypeAlias = tuple[str | int, ...]
"""Keys and list positions from the top of a document to a value."""


def dotted(path: Path) -> str:
    """Return a path as people write it: `nodes.ctl-1.roles[0]`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}"
    return text.removeprefix(".")


def locate(text: str, file: str, path: Path) -> Location:
    """Return the place of a mapping's key or a list's item, else of the nearest thing around it that exists."""
    return locate_all(text, file, [path])[path]


def locate_all(text: str, file: str, paths: Iterable[Path]) -> dict[Path, Location]:
    """Return the places of many paths by one scan, which ends when the last of them is found."""
    wanted = set(paths)
    finder = _Finder(wanted)
    with contextlib.suppress(yaml.YAMLError):  # what stands before the error has places; the reader reports it
        finder.scan(text)
    return {path: _nearest(path, finder.found, file) for path in wanted}


def _nearest(path: Path, found: dict[Path, tuple[int, int]], file: str) -> Location:
    for length in range(len(path), 0, -1):
        if path[:length] in found:
            line, column = found[path[:length]]
            return Location(file=file, line=line, column=column)
    return Location(file=file)


class _Finder:
    """Follows the events along the wanted paths only; `found` fills as it goes."""

    def __init__(self, wanted: Iterable[Path]) -> None:
        self.found: dict[Path, tuple[int, int]] = {}
        self._on_the_way = {path[:length] for path in wanted for length in range(len(path) + 1)}
        self._missing = len(self._on_the_way) - 1  # the empty path needs no place
        self._stack: list[tuple[Path, bool, int]] = []  # around the innermost: path, is a mapping, items so far
        self._path: Path = ()
        self._mapping = False
        self._next: Path | None = ()  # path of the value that comes next; None while a key comes next
        self._count = 0
        self._skip = 0  # depth inside a collection that is on no wanted path

    def scan(self, text: str) -> None:
        parser = CParser(text)
        while self._missing > 0:
            event = parser.get_event()
            kind = type(event)
            if kind is yaml.StreamEndEvent:
                return
            if kind is yaml.ScalarEvent or kind is yaml.AliasEvent:
                if not self._skip:
                    self._scalar(event)
            elif kind is yaml.MappingStartEvent or kind is yaml.SequenceStartEvent:
                self._start(event, is_mapping=kind is yaml.MappingStartEvent)
            elif kind is yaml.MappingEndEvent or kind is yaml.SequenceEndEvent:
                self._end()

    def _scalar(self, event: Json) -> None:
        if self._mapping and self._next is None:
            self._next = (*self._path, getattr(event, "value", ""))
            self._note(self._next, event)
        else:
            self._value(event)

    def _value(self, event: Json) -> Path:
        """Note a value's place and return its path; what comes next is a key or the next item."""
        if self._mapping or not self._stack:
            path, self._next = self._next or (), None
        else:
            path = (*self._path, self._position())
            self._note(path, event)
        return path

    def _position(self) -> int:
        self._count += 1
        return self._count - 1

    def _start(self, event: Json, *, is_mapping: bool) -> None:
        if self._skip:
            self._skip += 1
            return
        path = self._value(event)
        if path not in self._on_the_way:
            self._skip = 1
            return
        self._stack.append((self._path, self._mapping, self._count))
        self._path, self._mapping, self._count, self._next = path, is_mapping, 0, None

    def _end(self) -> None:
        if self._skip:
            self._skip -= 1
            return
        self._path, self._mapping, self._count = self._stack.pop()
        self._next = None

    def _note(self, path: Path, event: Json) -> None:
        if path in self._on_the_way and path not in self.found:
            self.found[path] = (event.start_mark.line + 1, event.start_mark.column + 1)
            self._missing -= 1
