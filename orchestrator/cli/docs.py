"""`python -m orchestrator.cli.docs`: what `make docs` writes into pages that are written by hand otherwise."""

from __future__ import annotations

import re
from pathlib import Path

from orchestrator import files
from orchestrator.lifecycle import mermaid

__all__ = ["main"]


def main() -> None:
    page = files.HOME / "docs" / "metal.md"
    _put(page, "```mermaid\n", "```\n", mermaid())


def _put(page: Path, opening: str, closing: str, text: str) -> None:
    """Replace what stands between two marks of a page."""
    pattern = re.compile(f"({re.escape(opening)}).*?({re.escape(closing)})", re.DOTALL)
    page.write_text(pattern.sub(lambda found: f"{found[1]}{text}{found[2]}", page.read_text(), count=1))


if __name__ == "__main__":
    main()
