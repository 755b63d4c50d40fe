"""Host names folded the way people and Ansible write them: kvm-[001:900]."""

from __future__ import annotations

import re
from collections.abc import Iterable

__all__ = ["fold"]

_NUMBERED = re.compile(r"^(.*?)(\d+)(\D*)$")


def fold(names: Iterable[str], limit: int = 0) -> str:
    """Return the names as a short sorted list of ranges; with `limit`, that many entries and "and N more"."""
    series: dict[tuple[str, str, int], list[int]] = {}
    parts: list[tuple[str, str]] = []  # (sort key, text)
    for name in sorted(set(names)):
        match = _NUMBERED.match(name)
        if not match:
            parts.append((name, name))
            continue
        head, digits, tail = match.groups()
        width = len(digits) if digits.startswith("0") or len(digits) > 1 else 1
        series.setdefault((head, tail, width), []).append(int(digits))
    for (head, tail, width), numbers in series.items():
        for first, last in _runs(sorted(numbers)):
            low, high = f"{first:0{width}d}", f"{last:0{width}d}"
            text = f"{head}{low}{tail}" if first == last else f"{head}[{low}:{high}]{tail}"
            parts.append((f"{head}{low}{tail}", text))
    texts = [text for _, text in sorted(parts)]
    if limit and len(texts) > limit:
        return f"{', '.join(texts[:limit])} and {len(texts) - limit} more"
    return ", ".join(texts)


def _runs(numbers: list[int]) -> Iterable[tuple[int, int]]:
    first = last = numbers[0]
    for number in numbers[1:]:
        if number != last + 1:
            yield first, last
            first = number
        last = number
    yield first, last
