"""Pages that are made from code are what the code makes."""

from __future__ import annotations

import json
from pathlib import Path

from orchestrator import spec

DOCS = Path(__file__).parents[2] / "docs"


def test_the_published_schema_is_that_of_the_reader():
    """`make docs` writes it anew."""
    assert json.loads((DOCS / "cluster.schema.json").read_text()) == spec.json_schema()


def test_every_page_named_in_the_readme_exists():
    import re

    readme = (DOCS.parent / "README.md").read_text()
    for target in re.findall(r"\]\(([^)#]+)\)", readme):
        assert (DOCS.parent / target).exists(), target
