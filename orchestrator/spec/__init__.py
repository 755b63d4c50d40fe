"""The spec: `cluster.yml`, `group_vars/` and `host_vars/` of a site, read into typed values (docs/spec.md)."""

from __future__ import annotations

from orchestrator.spec.places import Places
from orchestrator.spec.read import read
from orchestrator.spec.schema import json_schema
from orchestrator.spec.source import Decrypt, SiteFiles, SourceFile

__all__ = ["Decrypt", "Places", "SiteFiles", "SourceFile", "json_schema", "read"]
