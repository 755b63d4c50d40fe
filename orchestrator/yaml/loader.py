"""Text -> plain values, straight from libyaml's events.

No node tree and no recursion in between: that halves the time and makes deep or self-referring input harmless.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NoReturn

import yaml
from yaml._yaml import CParser

from orchestrator.collector import paused
from orchestrator.errors import HalliganError, Location, Problem, ProblemsError
from orchestrator.model import Json
from orchestrator.yaml import messages
from orchestrator.yaml.places import Path, dotted, locate_all
from orchestrator.yaml.scalars import COLLECTIONS, convert, resolve

__all__ = ["DEFAULT_LIMIT", "Document", "Vaulted", "load", "read"]

DEFAULT_LIMIT = 64 * 1024 * 1024
"""Bytes that one file may have, and characters that its aliases may expand to."""

_MAX_VALUES = 5_000_000  # about 1 GB of Python objects: what the size limit alone does not stop
_MAX_DEPTH = 100
_MAX_PROBLEMS = 100
_KEPT_DEPTH = 2  # the places of `section` and `section.name` are kept for good, all others are found on demand
_VAULT_TAGS = ("!vault", "!vault-encrypted")


@dataclass(frozen=True, slots=True)
class Vaulted:
    """A value that is encrypted in place: the text under a `!vault` tag."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """One file as read: its values, and what it takes to say where each of them stands."""

    file: str
    text: str
    data: Json
    vaulted: bool = False  # holds at least one `!vault` value
    places: Mapping[Path, Location] = field(default_factory=dict)  # of keys at most two levels deep

    def where(self, path: Path) -> Location:
        """Return the place of a key or item; anything below two levels costs a scan of the text."""
        return self.places.get(path) or locate_all(self.text, self.file, [path])[path]


def load(text: str | bytes, file: str, *, limit: int = DEFAULT_LIMIT) -> Json:
    """Return the values of a YAML text; an empty text is None. Raises ProblemsError."""
    return read(text, file, limit=limit).data


def read(text: str | bytes, file: str, *, limit: int = DEFAULT_LIMIT) -> Document:
    """Return a YAML text as a Document. Raises ProblemsError."""
    if not yaml.__with_libyaml__:
        raise HalliganError(
            "PyYAML was installed without libyaml, which makes it ten times slower",
            hint="install PyYAML from a wheel, or with the libyaml headers present (Debian: libyaml-dev)",
        )
    if len(text) > limit:
        raise ProblemsError([messages.too_big(file, limit)])
    source = _decode(text, file)
    builder = _Builder(source, file, limit)
    data = None
    try:
        with paused():
            data = builder.build()
    except yaml.YAMLError as error:
        builder.problems.append(messages.explain(error, source, file))
    except _StopError as stop:
        builder.problems.append(stop.problem)
    if problems := [*builder.problems, *builder.duplicates()]:
        raise ProblemsError(problems)
    return Document(file=file, text=source, data=data, vaulted=builder.vaulted, places=builder.places)


def _decode(text: str | bytes, file: str) -> str:
    if isinstance(text, str):
        return text
    try:
        return text.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ProblemsError([messages.not_utf8(file, text, error)]) from None


class _StopError(Exception):
    """Reading cannot go on past this problem."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.summary)
        self.problem = problem


class _Frame:
    """A mapping or list being filled. `key` is the mapping key whose value comes next, None for a merge."""

    __slots__ = ("anchor", "awaits", "key", "mapping", "merges", "start", "values")

    def __init__(self, *, mapping: dict[str, Json] | None, anchor: str | None, start: int) -> None:
        self.mapping = mapping  # None: a list, whose items are in `values`
        self.values: list[Json] = []
        self.merges: list[dict[str, Json]] = []
        self.key: str | None = ""
        self.awaits = False  # a value for `key`
        self.anchor = anchor
        self.start = start  # the builder's size when it began, to know its own at its end


class _Builder:
    """Builds one document from events; holds the open collections, the anchors and what was found wrong."""

    def __init__(self, text: str, file: str, limit: int) -> None:
        self.problems: list[Problem] = []
        self.places: dict[Path, Location] = {}
        self.vaulted = False
        self._text = text
        self._file = file
        self._limit = limit
        self._result: Json = None
        self._stack: list[_Frame] = []
        self._top: _Frame | None = None
        self._plain: dict[str, Json] = {}  # plain scalars seen: equal ones are resolved once and share one object
        self._keys: dict[str, str] = {}
        self._anchors: dict[str, tuple[Json, int]] = {}
        self._open: set[str] = set()  # anchors of collections not yet closed
        self._twice: list[tuple[Path, Location]] = []
        self._size = 0  # characters, aliases counted as what they stand for
        self._count = 0
        self._documents = 0

    def build(self) -> Json:
        handlers: dict[type, Callable[[Json], None]] = {
            yaml.ScalarEvent: self._scalar,
            yaml.MappingStartEvent: self._start,
            yaml.SequenceStartEvent: self._start,
            yaml.MappingEndEvent: self._end,
            yaml.SequenceEndEvent: self._end,
            yaml.AliasEvent: self._alias,
            yaml.DocumentStartEvent: self._document,
        }
        get, handler_of = CParser(self._text).get_event, handlers.get
        while True:
            event = get()
            kind = type(event)
            if handler := handler_of(kind):
                handler(event)
            elif kind is yaml.StreamEndEvent:
                return self._result

    def duplicates(self) -> list[Problem]:
        """Return a problem for every key that stands twice. The first places are found in one scan of the text."""
        if not self._twice:
            return []
        first = locate_all(self._text, self._file, [path for path, _ in self._twice])
        return [
            Problem(
                code="yaml.duplicate-key",
                summary=f'the key "{path[-1]}" stands twice in {dotted(path[:-1]) or "this file"}',
                where=where,
                detail=(f"first at {first[path]}",),
                hint="keep one of the two; YAML would silently take the last",
            )
            for path, where in self._twice
        ]

    # --- events ---------------------------------------------------------------------------------------------------

    def _document(self, event: Json) -> None:
        self._documents += 1
        if self._documents > 1:
            self._stop(event, "yaml.documents", 'a second document starts here ("---"); one file holds one document')

    def _scalar(self, event: Json) -> None:
        text = event.value
        self._size += len(text) + 1
        if self._at_key():
            self._key(text, event)
            return
        if event.tag is not None:
            value = self._tagged(event)
        elif event.implicit[0]:
            value = self._plain.get(text, self)
            if value is self:
                value = self._plain[text] = resolve(text)
        else:
            value = text
        if event.anchor is not None:
            self._anchors[event.anchor] = (value, len(text) + 1)
        self._add(value, event)

    def _start(self, event: Json) -> None:
        if event.tag not in COLLECTIONS:
            self._report(
                event, "yaml.tag", f'the tag "{event.tag}" is not supported', hint=messages.tag_hint(event.tag)
            )
        if self._at_key():
            self._stop(event, "yaml.key", *messages.odd_key(self._text, event.start_mark.index))
        if len(self._stack) >= _MAX_DEPTH:
            self._stop(event, "yaml.depth", f"values are nested more than {_MAX_DEPTH} levels deep here")
        mapping: dict[str, Json] | None = {} if type(event) is yaml.MappingStartEvent else None
        self._top = _Frame(mapping=mapping, anchor=event.anchor, start=self._size)
        self._stack.append(self._top)
        self._size += 2
        if event.anchor is not None:
            self._open.add(event.anchor)

    def _end(self, event: Json) -> None:
        frame = self._stack.pop()
        self._top = self._stack[-1] if self._stack else None
        for source in frame.merges:
            for key, value in source.items():
                frame.mapping.setdefault(key, value)  # type: ignore[union-attr]  # only mappings merge
        value = frame.values if frame.mapping is None else frame.mapping
        if frame.anchor is not None:
            self._open.discard(frame.anchor)
            self._anchors[frame.anchor] = (value, self._size - frame.start)
        self._add(value, event)

    def _alias(self, event: Json) -> None:
        name = event.anchor
        if name in self._open:
            self._stop(event, "yaml.alias", f'"*{name}" refers to the value that it is part of')
        if name not in self._anchors:
            hint = 'put quotes around a text that begins with "*"'
            self._stop(event, "yaml.alias", f'"*{name}" refers to "&{name}", which is not defined above', hint)
        value, size = self._anchors[name]
        self._size += size
        if self._size > self._limit:
            summary = f"with its aliases expanded the file is larger than {messages.mebibytes(self._limit)}"
            self._stop(event, "yaml.bomb", summary, "write out what you need; do not alias values that hold aliases")
        if not self._at_key():
            self._add(value, event)
        elif isinstance(value, str):
            self._key(value, event)
        else:
            self._stop(event, "yaml.key", f'"*{name}" stands for a value that cannot be a key')

    # --- parts ----------------------------------------------------------------------------------------------------

    def _at_key(self) -> bool:
        top = self._top
        return top is not None and top.mapping is not None and not top.awaits

    def _key(self, text: str, event: Json) -> None:
        top = self._stack[-1]
        plain = type(event) is yaml.ScalarEvent and event.implicit[0]
        if plain and not text:
            self._stop(event, "yaml.key", 'a key is missing before this ":"')
        top.awaits = True
        if plain and text == "<<":
            top.key = None
            return
        top.key = self._keys.setdefault(text, text)
        if len(self._stack) <= _KEPT_DEPTH:
            self.places.setdefault((*self._path(), text), self._at(event))
        if text in top.mapping and len(self._twice) < _MAX_PROBLEMS:  # type: ignore[operator]  # keys mean a mapping
            self._twice.append(((*self._path(), text), self._at(event)))
        top.mapping[text] = None  # type: ignore[index]
        if type(event) is yaml.ScalarEvent and event.anchor is not None:
            self._anchors[event.anchor] = (text, len(text) + 1)

    def _add(self, value: Json, event: Json) -> None:
        self._count += 1
        if self._count > _MAX_VALUES:
            self._stop(event, "yaml.too-big", f"the file holds more than {_MAX_VALUES:,} values")
        top = self._top
        if top is None:
            self._result = value
        elif top.mapping is None:
            top.values.append(value)
        else:
            top.awaits = False
            if top.key is None:
                self._merge(top, value, event)
            else:
                top.mapping[top.key] = value

    def _merge(self, top: _Frame, value: Json, event: Json) -> None:
        sources = value if isinstance(value, list) else [value]
        if all(isinstance(source, dict) for source in sources):
            top.merges.extend(sources)
        else:
            self._report(event, "yaml.merge", '"<<" merges a mapping or a list of mappings, and this is neither')

    def _tagged(self, event: Json) -> Json:
        if event.tag in _VAULT_TAGS:
            self.vaulted = True
            return Vaulted("\n".join(line.strip() for line in event.value.strip().splitlines()))
        try:
            return convert(event.tag, event.value)
        except ValueError as error:
            self._report(event, "yaml.tag", str(error), hint=messages.tag_hint(event.tag))
            return event.value

    def _path(self) -> Path:
        """Return where the innermost open collection stands."""
        return tuple(len(frame.values) if frame.mapping is None else frame.key or "<<" for frame in self._stack[:-1])

    def _report(self, event: Json, code: str, summary: str, *, hint: str = "") -> None:
        if len(self.problems) < _MAX_PROBLEMS:
            self.problems.append(Problem(code=code, summary=summary, where=self._at(event), hint=hint))

    def _stop(self, event: Json, code: str, summary: str, hint: str = "") -> NoReturn:
        raise _StopError(Problem(code=code, summary=summary, where=self._at(event), hint=hint))

    def _at(self, event: Json) -> Location:
        return Location(file=self._file, line=event.start_mark.line + 1, column=event.start_mark.column + 1)
