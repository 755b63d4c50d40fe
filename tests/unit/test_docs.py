"""Pages that are made from code are what the code makes."""

from __future__ import annotations

import json
import re
from pathlib import Path

from orchestrator import catalog, spec

DOCS = Path(__file__).parents[2] / "docs"


def test_the_published_schema_is_that_of_the_reader():
    """`make docs` writes it anew."""
    assert json.loads((DOCS / "cluster.schema.json").read_text()) == spec.json_schema()


def test_every_page_named_in_the_readme_exists():
    readme = (DOCS.parent / "README.md").read_text()
    for target in re.findall(r"\]\(([^)#]+)\)", readme):
        assert (DOCS.parent / target).exists(), target


def test_every_key_of_a_contract_is_explained():
    """The page shows a contract with each key that the reader knows, at every level."""
    page = (DOCS / "contracts.md").read_text()
    schema = catalog.json_schema()
    keys = set(schema["properties"]).union(*(part.get("properties", {}) for part in schema.get("$defs", {}).values()))
    assert {key for key in keys if not re.search(rf"\b{key}\b", page)} == set()


def test_every_decision_has_a_number_and_the_three_parts():
    records = sorted((DOCS / "adr").glob("*.md"))
    assert [int(record.name[:4]) for record in records] == list(range(1, len(records) + 1))
    for record in records:
        assert re.findall(r"^\*\*(\w+)\.\*\*", record.read_text(), re.M) == ["Context", "Choice", "Consequences"], (
            record.name
        )
