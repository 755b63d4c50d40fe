"""Every example site is one that Halligan takes: no problem, a plan without gaps, and no role runs before its need."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from support.shell import REPO, halligan

SITES = sorted(path.parent for path in (REPO / "inventories").glob("*/cluster.yml"))


@pytest.mark.parametrize("example", SITES, ids=[site.name for site in SITES])
def test_an_example_site_is_valid_and_can_be_planned(example: Path, tmp_path: Path):
    site = tmp_path / example.name
    shutil.copytree(example, site, ignore=shutil.ignore_patterns(".halligan", ".vault-password", "secrets.yml"))
    halligan("secrets", "init", site)
    assert halligan("validate", site).startswith(f"ok: {example.name}")
    assert "to create" in halligan("plan", site, expect=2)
