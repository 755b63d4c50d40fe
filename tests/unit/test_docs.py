"""Pages that are made from code are what the code makes."""

from __future__ import annotations

import json
import re
from pathlib import Path

from support.sites import role

from orchestrator import catalog, files, spec
from orchestrator.cli.docs import role_pages
from orchestrator.model import Cardinality, Check, Option, Wire

DOCS = Path(__file__).parents[2] / "docs"


def test_the_published_schema_is_that_of_the_reader():
    """`make docs` writes it anew."""
    assert json.loads((DOCS / "cluster.schema.json").read_text()) == spec.json_schema()


def test_the_pages_of_the_roles_are_those_of_their_contracts():
    """`make docs` writes them anew."""
    pages = role_pages(catalog.read(files.read_roles([files.HOME / "roles"])))
    written = {str(page.relative_to(DOCS)) for page in [DOCS / "roles.md", *(DOCS / "roles").glob("*.md")]}
    assert written == set(pages)
    assert [name for name, text in pages.items() if (DOCS / name).read_text() != text] == []


def test_a_page_of_a_role_tells_all_of_its_contract():
    nested = {"name": Option(name="name", required=True, description="Its | name.")}
    options = [
        Option(name="db_users", type="list", elements="dict", default=[], options=nested),
        Option(name="db_kind", choices=("a", "b"), default="a"),
        Option(name="db_password", required=True, secret=True),
        Option(name="db_text", default="x" * 200),
    ]
    contract = role(
        "db",
        provides=["database.sql"],
        requires=["os.base/node"],
        inputs={"db_cache": Wire(capability="cache", output="cache_host", collect="list")},
        options=options,
        outputs=["db_host"],
        cardinality=Cardinality(quorum=True),
        checks=(Check(option="db_kind", that="db_kind != 'b'", message="not {{ db_kind }}"),),
    )
    pages = role_pages({"db": contract, "app": role("app", requires=["database.sql"])})
    assert list(pages) == ["roles.md", "roles/db.md", "roles/app.md"]
    page = pages["roles/db.md"]
    for words in (
        "[app](app.md)",
        "`os.base` on the same node",
        "an odd number",
        "| `db_cache` | raw | `cache_host` of every `cache` |",
        "| `db_users` | list of dict | `[]` |",
        "| `db_users[].name` | str | needed | Its \\| name. |",
        "| `db_kind` | str: `a`, `b` | `a` |",
        "| `db_password` | str | needed, secret |",
        "| `db_text` | str | see its defaults |",
        "| `db_host` | str |",
        "| `db_kind` | `db_kind != 'b'` | `not {{ db_kind }}` |",
    ):
        assert words in page
    assert "## database" in pages["roles.md"]
    assert pages == role_pages({"db": contract, "app": role("app", requires=["database.sql"])})


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
