"""Reading a JSON document of unknown origin: bounded, cleaned, every problem with its path, never an exception."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from orchestrator.errors import Location, Problem
from orchestrator.model import Json

__all__ = ["MOST_DEPTH", "MOST_ITEMS", "MOST_TEXT", "Fields", "Findings", "clean", "clean_text"]

MOST_DEPTH = 32
MOST_ITEMS = 4096
"""Members of one list or object: more disks or network ports than any machine has."""
MOST_TEXT = 4096
"""Characters of one text."""
MOST_NUMBER = 2**63 - 1
MOST_PROBLEMS = 50


@dataclass(slots=True)
class Findings:
    """What is wrong with a document from `source`; past a limit problems are only counted."""

    source: str
    problems: list[Problem] = field(default_factory=list)
    more: int = 0

    def add(self, code: str, path: str, what: str, hint: str = "") -> None:
        if len(self.problems) >= MOST_PROBLEMS:
            self.more += 1
            return
        summary = f"{path or 'the document'} {what}"
        self.problems.append(Problem(code=code, summary=summary, where=Location(file=self.source), hint=hint))

    def all(self) -> list[Problem]:
        if not self.more:
            return self.problems
        tail = Problem(code="facts.~more", summary=f"and {self.more} more", where=Location(file=self.source))
        return [*self.problems, tail]


def clean_text(text: str) -> str:
    """Return a text that a terminal, a database and UTF-8 can take: DMI strings hold whatever the vendor left there."""
    if text.isascii() and text.isprintable():
        return text
    kept = "".join(char if char.isprintable() or char in "\t\n" else " " for char in text)
    return kept.encode("utf-8", "replace").decode()


def clean(value: Json, findings: Findings, path: str = "", depth: int = 0) -> Json:
    """Return a copy of a JSON value within the limits; what is beyond them becomes None and a problem."""
    match value:
        case str():
            return _clean_text(value, findings, path)
        case bool():
            return value
        case int() | float():
            return _clean_number(value, findings, path)
        case dict() | list():
            return _clean_members(value, findings, path, depth)
    return None


def _clean_members(value: dict[str, Json] | list[Json], findings: Findings, path: str, depth: int) -> Json:
    if depth >= MOST_DEPTH:
        findings.add("facts.depth", path, f"is nested deeper than {MOST_DEPTH} levels")
        return None
    if len(value) > MOST_ITEMS:
        findings.add("facts.count", path, f"has {len(value)} members; at most {MOST_ITEMS} are read")
        return None
    if isinstance(value, list):
        return [clean(item, findings, f"{path}[{at}]", depth + 1) for at, item in enumerate(value)]
    return {
        clean_text(key)[:MOST_TEXT]: clean(item, findings, _join(path, key), depth + 1) for key, item in value.items()
    }


def _clean_text(value: str, findings: Findings, path: str) -> str | None:
    if len(value) > MOST_TEXT:
        findings.add("facts.text", path, f"is a text of {len(value)} characters; at most {MOST_TEXT} are read")
        return None
    return clean_text(value)


def _clean_number(value: float, findings: Findings, path: str) -> float | None:
    if math.isfinite(value) and abs(value) <= MOST_NUMBER:
        return value
    findings.add("facts.value", path, "is a number out of any range")
    return None


def _join(path: str, key: str) -> str:
    shown = clean_text(key)[:60]
    return f"{path}.{shown}" if path else shown


@dataclass(frozen=True, slots=True)
class Fields:
    """An object of a cleaned document, at its path. A key that is absent or null reads as empty, 0, None or ()."""

    value: Mapping[str, Json]
    path: str
    findings: Findings

    def text(self, key: str) -> str:
        found = self.value.get(key)
        if found is None:
            return ""
        if isinstance(found, str):
            return found.strip()
        self.refuse(key, "a text")
        return ""

    def whole(self, key: str, *, negative: bool = False) -> int:
        """Return a whole number; one below zero is a problem unless `negative`, then it reads as 0 ("unknown")."""
        found = self.value.get(key)
        if found is None:
            return 0
        if isinstance(found, bool) or not isinstance(found, int | float) or found != int(found):
            self.refuse(key, "a whole number")
            return 0
        if found < 0 and not negative:
            self.findings.add("facts.value", self.at(key), f"is {found}, below zero")
        return max(0, int(found))

    def number(self, key: str) -> float:
        found = self.value.get(key)
        if found is None:
            return 0.0
        if isinstance(found, bool) or not isinstance(found, int | float):
            self.refuse(key, "a number")
            return 0.0
        return float(found)

    def flag(self, key: str) -> bool | None:
        found = self.value.get(key)
        if found is None or isinstance(found, bool):
            return found
        self.refuse(key, "true or false")
        return None

    def child(self, key: str) -> Fields:
        found = self.value.get(key)
        if found is not None and not isinstance(found, Mapping):
            self.refuse(key, "an object")
        return Fields(found if isinstance(found, Mapping) else {}, self.at(key), self.findings)

    def items(self, key: str) -> Sequence[Json]:
        found = self.value.get(key)
        if isinstance(found, list):
            return found
        if found is not None:
            self.refuse(key, "a list")
        return ()

    def children(self, key: str) -> Iterator[Fields]:
        for at, item in enumerate(self.items(key)):
            path = f"{self.at(key)}[{at}]"
            if isinstance(item, Mapping):
                yield Fields(item, path, self.findings)
            else:
                self.findings.add("facts.type", path, f"is {kind_of(item)}, not an object")

    def texts(self, key: str) -> tuple[str, ...]:
        return tuple(item.strip() for item in self._typed(key, str, "a text"))

    def wholes(self, key: str) -> tuple[int, ...]:
        return tuple(self._typed(key, int, "a whole number"))

    def _typed(self, key: str, wanted: type, name: str) -> Iterator[Json]:
        for at, item in enumerate(self.items(key)):
            if isinstance(item, wanted) and not isinstance(item, bool):
                yield item
            else:
                self.findings.add("facts.type", f"{self.at(key)}[{at}]", f"is {kind_of(item)}, not {name}")

    def at(self, key: str) -> str:
        return _join(self.path, key)

    def refuse(self, key: str, wanted: str) -> None:
        self.findings.add("facts.type", self.at(key), f"is {kind_of(self.value.get(key))}, not {wanted}")


def kind_of(value: Json) -> str:
    """Name the kind of a JSON value, with the value where that is short."""
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case str():
            return f'the text "{value[:40]}"'
        case int() | float():
            return f"the number {value}"
        case dict():
            return "an object"
    return "a list"
