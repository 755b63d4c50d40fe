"""Node names with ranges, as Ansible writes them: `kvm-[001:900]`, `rack[a:d]-[1:9:2]`."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Sequence

__all__ = ["count", "expand", "is_range"]

_PART = re.compile(r"\[([^\[\]]*)\]")
_BOUNDS = re.compile(r"(?P<first>[0-9]*|[A-Za-z]):(?P<last>[0-9]+|[A-Za-z])(?::(?P<step>[0-9]+))?")
_MAX_DIGITS = 18


def is_range(name: str) -> bool:
    return "[" in name or "]" in name


def count(pattern: str) -> int:
    """Return how many names a pattern stands for. Raises ValueError with the reason in words."""
    return math.prod(len(part) for part in _parts(pattern))


def expand(pattern: str) -> Iterator[str]:
    """Yield the names a pattern stands for, the last range counting fastest. Raises ValueError."""
    return map("".join, itertools.product(*_parts(pattern)))


class _Numbers(Sequence[str]):
    """A numeric range as text, made on demand: it may be far longer than is allowed, and is measured first."""

    def __init__(self, numbers: range, width: int) -> None:
        self._numbers = numbers
        self._width = width

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: int | slice) -> str:
        assert isinstance(index, int)
        return str(self._numbers[index]).zfill(self._width)

    def __iter__(self) -> Iterator[str]:
        return (str(number).zfill(self._width) for number in self._numbers)


def _parts(pattern: str) -> list[Sequence[str]]:
    pieces = _PART.split(pattern)
    if any(is_range(text) for text in pieces[::2]):
        raise ValueError('has a "[" or "]" without its counterpart')
    return [_range(piece) if index % 2 else (piece,) for index, piece in enumerate(pieces)]


def _range(bounds: str) -> Sequence[str]:
    found = _BOUNDS.fullmatch(bounds)
    if found is None:
        raise ValueError(f"has the range [{bounds}], which is not of the form [first:last] or [first:last:step]")
    first, last, step = found["first"], found["last"], int(found["step"] or "1")
    if step == 0:
        raise ValueError(f"has the range [{bounds}] with a step of 0")
    if first.isalpha() or last.isalpha():
        return _letters(bounds, first, last, step)
    return _numbers(bounds, first or "0", last, step)


def _letters(bounds: str, first: str, last: str, step: int) -> Sequence[str]:
    if not (first.isalpha() and last.isalpha() and first.isupper() == last.isupper()):
        raise ValueError(f"has the range [{bounds}], whose ends are not letters of the same case")
    if first > last:
        raise ValueError(f"has the range [{bounds}], which is reversed: it stands for no node")
    return [chr(code) for code in range(ord(first), ord(last) + 1, step)]


def _numbers(bounds: str, first: str, last: str, step: int) -> Sequence[str]:
    if max(len(first), len(last)) > _MAX_DIGITS:
        raise ValueError(f"has the range [{bounds}], whose numbers are too long")
    padded = len(first) > 1 and first[0] == "0"
    if padded and len(first) != len(last):
        raise ValueError(f"has the range [{bounds}], whose ends must have the same number of digits")
    if int(first) > int(last):
        raise ValueError(f"has the range [{bounds}], which is reversed: it stands for no node")
    return _Numbers(range(int(first), int(last) + 1, step), len(first) if padded else 0)
