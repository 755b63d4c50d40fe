"""`python -m orchestrator.cli.docs`: what `make docs` makes of code and contracts: pages, and parts of pages."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from orchestrator import catalog, files
from orchestrator.cli.views.rolepages import index_page, role_page
from orchestrator.lifecycle import mermaid
from orchestrator.model import Catalog

__all__ = ["main", "role_pages"]

ROLES = "roles"


def main() -> None:
    docs = files.HOME / "docs"
    _put(docs / "metal.md", "```mermaid\n", "```\n", mermaid())
    pages = role_pages(catalog.read(files.read_roles([files.HOME / "roles"])))
    (docs / ROLES).mkdir(exist_ok=True)
    for old in (docs / ROLES).glob("*.md"):
        if f"{ROLES}/{old.name}" not in pages:
            old.unlink()
    for name, text in pages.items():
        (docs / name).write_text(text)


def role_pages(roles: Catalog) -> Mapping[str, str]:
    """Return the pages of a catalogue by their path under docs/."""
    pages = {f"{ROLES}.md": index_page(roles)}
    for name, role in roles.items():
        consumers = [
            other
            for other, contract in sorted(roles.items())
            if {need.capability for need in contract.requires} & set(role.provides)
        ]
        pages[f"{ROLES}/{name}.md"] = role_page(role, consumers)
    return pages


def _put(page: Path, opening: str, closing: str, text: str) -> None:
    """Replace what stands between two marks of a page."""
    pattern = re.compile(f"({re.escape(opening)}).*?({re.escape(closing)})", re.DOTALL)
    page.write_text(pattern.sub(lambda found: f"{found[1]}{text}{found[2]}", page.read_text(), count=1))


if __name__ == "__main__":
    main()
