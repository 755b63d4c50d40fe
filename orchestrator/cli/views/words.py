"""The small words of every text view: counts, durations, marks, tables, and the look they are painted with."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from orchestrator.model import CARRY, METAL, PUSH, Action, Status

__all__ = [
    "EXECUTOR_WORDS",
    "MARKS",
    "STATUS_ORDER",
    "Look",
    "count",
    "duration",
    "joined",
    "plain",
    "table",
    "tail",
    "when",
    "wrapped",
]

STATUS_ORDER = (Status.CHANGED, Status.OK, Status.FAILED, Status.UNREACHABLE, Status.SKIPPED)
MARKS = {Action.CREATE: "+", Action.UPDATE: "~", Action.REMOVE: "-", Action.CHECK: "?"}

EXECUTOR_WORDS = {METAL: "metal", CARRY: "carry", PUSH: "push"}

_CODES = {
    "head": "1",
    "dim": "2",
    "danger": "1;31",
    Action.CREATE: "32",
    Action.UPDATE: "33",
    Action.REMOVE: "31",
    Action.CHECK: "36",
    Status.OK: "32",
    Status.CHANGED: "33",
    Status.FAILED: "1;31",
    Status.UNREACHABLE: "1;35",
    Status.SKIPPED: "36",
}

_CONTROL = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b[@-_]|[\x00-\x08\x0b-\x1f\x7f-\x9f]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """How text may be dressed. Without colour the text is the same, so that pipes and terminals show equal words."""

    colour: bool = False
    width: int = 100

    def paint(self, text: str, style: str) -> str:
        code = _CODES.get(style, "")
        return f"\x1b[{code}m{text}\x1b[0m" if self.colour and code and text else text

    def head(self, text: str) -> str:
        return self.paint(text, "head")

    def dim(self, text: str) -> str:
        return self.paint(text, "dim")


def count(number: int, noun: str, plural: str = "") -> str:
    """Return "1 node", "1,000 nodes"."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def joined(parts: Iterable[str], last: str = "and") -> str:
    """Return "a, b and c"."""
    *front, end = list(parts) or [""]
    return f"{', '.join(front)} {last} {end}" if front else end


def duration(seconds: float) -> str:
    """Return "0.4 s", "42 s", "3 min 20 s", "1 h 12 min"; precise where it is short."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s" if whole % 60 else f"{whole // 60} min"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes % 60 else f"{minutes // 60} h"


def when(at: float) -> str:
    """Return UTC seconds as "2025-03-01 14:05:09Z"."""
    from datetime import UTC, datetime

    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def table(head: Sequence[str], rows: Iterable[Sequence[str]], look: Look, numbers: Iterable[int] = ()) -> list[str]:
    """Return aligned lines; the columns named in `numbers` are right-aligned. Cells hold no colour."""
    right = set(numbers)
    cells = [tuple(head), *(tuple(row) for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]

    def line(row: Sequence[str]) -> str:
        padded = (
            text.rjust(width) if column in right else text.ljust(width)
            for column, (text, width) in enumerate(zip(row, widths, strict=True))
        )
        return "  ".join(padded).rstrip()

    return [look.dim(line(cells[0])), *(line(row) for row in cells[1:])]


def wrapped(text: str, look: Look, *, first: str = "", rest: str = "") -> list[str]:
    """Return the text in lines of the look's width; ids and ranges are never broken at their hyphens."""
    return textwrap.wrap(
        text,
        width=max(look.width, 40),
        initial_indent=first,
        subsequent_indent=rest or " " * len(first),
        break_long_words=False,
        break_on_hyphens=False,
    ) or [first.rstrip()]


def plain(text: str) -> str:
    """Return text from a host without terminal control sequences: no host may write on the operator's screen."""
    return _CONTROL.sub("", text.replace("\r\n", "\n"))


def tail(text: str, lines: int) -> list[str]:
    """Return the last lines of an output, without trailing blank ones."""
    return plain(text).rstrip().splitlines()[-lines:]
